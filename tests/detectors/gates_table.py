"""The small network of every kind of detector that the gates try."""

from dataclasses import replace

from tests.detectors.gates import SMALL_LEVELS, Gate

TINY = {"width": 32, "channels": [16, 24, 32], "blocks": 1, "encoder_layers": 1,
        "decoder_layers": 2, "attention_heads": 2, "queries": 40}  # fmt: skip
"""Of the networks that predict a set."""
DETR = TINY | {"width": 64, "channels": [16, 32, 48], "attention_heads": 4, "queries": 30}
HUB = {
    "model_type": "yolos", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 256, "patch_size": 8, "image_size": [64, 64], "num_detection_tokens": 20,
    "use_mid_position_embeddings": False,
}  # fmt: skip
"""As a checkpoint of the hub would describe it."""
GATES = {
    "mask_rcnn": Gate("mask_rcnn", {"hidden": 64, "mask_channels": 16}, steps=100),
    "faster_rcnn": Gate("faster_rcnn", {"hidden": 64}, steps=100),
    "vitdet": Gate(
        "vitdet",
        {"hidden": 64, "mask_channels": 16},
        {
            "name": "vit_tiny_patch16_224",
            "options": {
                "embed_dim": 48,
                "depth": 4,
                "num_heads": 3,
                "window": 2,
                "token_stride": 8,
            },
            "strides": [4, 8],
            "channels": 32,
        },
        steps=100,
    ),
    "yolo": Gate("yolo"),
    "yolo_seg": Gate("yolo_seg"),
    "ultralytics": Gate(
        "ultralytics", {"model": "yolo11n.yaml", "stride_4": True}, None, steps=250
    ),
    "detr": Gate("detr", DETR, None, steps=250, learning_rate=1.5e-3),
    "conditional_detr": Gate("conditional_detr", DETR, None, steps=200, learning_rate=2e-3),
    "deformable_detr": Gate(
        "deformable_detr", TINY | {"stride": 4}, None, steps=150, learning_rate=3e-3
    ),
    "rt_detr": Gate("rt_detr", TINY, None, steps=100, learning_rate=3e-3),
    "rt_detr_v2": Gate("rt_detr_v2", TINY, None, steps=120, learning_rate=3e-3),
    "d_fine": Gate("d_fine", TINY, None, steps=150, learning_rate=4e-3),
    "rf_detr": Gate("rf_detr", TINY | {"encoder_layers": 2}, None, steps=200, learning_rate=3e-3),
    "yolos": Gate(
        "yolos", DETR | {"encoder_layers": 4, "queries": 20}, None, steps=300, learning_rate=1e-3
    ),
    "huggingface": Gate("huggingface", {"configuration": HUB}, None, steps=300, learning_rate=1e-3),
    "efficientdet": Gate(
        "efficientdet",
        {"pyramid_repeats": 1, "head_layers": 1, "largest_stride": 16},
        None,
        steps=60,
    ),
    "semantic": Gate("semantic", steps=180, learning_rate=1.2e-2),
}
"""By head, of which some come in several kinds."""
FAMILIES = ("yolov8n", "yolo12n", "yolo26n", "yolov8n-seg", "yolo11n-seg", "yolo26n-seg")
# yolov9t has no level of stride 4, and without one 0.75 is all that it learns
for name in FAMILIES:
    model = {"model": f"{name}.yaml", "stride_4": True}
    GATES[name] = Gate("ultralytics", model, None, steps=600, learning_rate=2e-2)
DEEP = {"name": "resnet101", "options": {"channels": [16, 24, 32, 48]}} | SMALL_LEVELS
GATES["mask_rcnn_resnet101"] = replace(GATES["mask_rcnn"], backbone=DEEP)
KIN = ("conditional_detr", "deformable_detr", "rt_detr_v2", "d_fine", "huggingface")
SLOW = (*FAMILIES, "mask_rcnn_resnet101", *KIN)
"""Those that take minutes, or have almost all in common with another."""
