"""Tiny networks of the kind "segment anything", for tests of the detection `promptable`."""

from pathlib import Path

import numpy as np


def tiny_sam(folder: Path, size: int = 64) -> Path:
    """Write a SAM of random numbers, with its configuration, as the hub has them."""
    import torch
    from transformers import SamConfig, SamModel

    torch.manual_seed(7)
    width = 16
    config = SamConfig(
        vision_config={
            "hidden_size": width,
            "output_channels": width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": size,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [1],
            "mlp_dim": 32,
            "num_pos_feats": width // 2,
        },
        prompt_encoder_config={
            "hidden_size": width,
            "image_size": size,
            "patch_size": 16,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": width,
        },
    )
    SamModel(config).save_pretrained(folder)
    return folder


def tiny_sam2(folder: Path, size: int = 128) -> Path:
    """Write a SAM 2 of random numbers, with its configuration, as the hub has them."""
    import torch
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(8)
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [size, size],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 4, 4, 2],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[size // s, size // s] for s in (4, 8, 16)],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": size, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    Sam2Model(config).save_pretrained(folder)
    return folder


class DiscNetwork:
    """Stands for a network: the answer to a box or a point is the disc in or around it.

    Parameters
    ----------
    radius : float
        Of the answers to points, in pixels.
    quality : float
        That it says its masks have.
    """

    def __init__(self, radius=4.0, quality=0.9):
        self.radius, self.quality = radius, quality
        self.pictures = []

    def segment(self, picture, boxes, points):
        """As `cyclades.stages.networks.prompts.PromptedNetwork.segment`."""
        assert picture.shape[0] == 3
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() <= 1
        self.pictures.append(picture)
        y, x = np.mgrid[: picture.shape[1], : picture.shape[2]] + 0.5
        if boxes is not None:
            centres = 0.5 * (boxes[:, :2] + boxes[:, 2:])
            radii = 0.5 * (boxes[:, 2:] - boxes[:, :2]).min(1)
        else:
            centres, radii = points, np.full(len(points), self.radius)
        masks = [
            np.hypot(x - cx, y - cy) <= radius
            for (cx, cy), radius in zip(centres, radii, strict=True)
        ]
        return np.array(masks), np.full(len(masks), self.quality, np.float32)
