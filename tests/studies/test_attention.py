"""The head that learns where to look, and features of several backbones."""
# ruff: noqa: E402

import numpy as np
import pytest
from PIL import Image
from requirements import require

require("learned")

import torch

from cyclades.pipeline.studies.options import StudyOptions
from cyclades.pipeline.studies.running import Study, run_study
from cyclades.pipeline.studies.tasks.attention import AttentionHead, attend
from cyclades.pipeline.studies.tasks.features import classify
from cyclades.pipeline.studies.tasks.morphology import Morphology
from cyclades.pipeline.studies.tasks.morphology_options import AttentionOptions, MorphologyOptions
from cyclades.stages.core.errors import InputError
from cyclades.stages.networks.features import layers, pooled, start_backbone, turned
from cyclades.stages.networks.specification import BackboneSpec

SMALL = {"name": "resnet18", "options": {"channels": [8, 16, 24, 32]}}
OTHER = {"name": "resnet18", "options": {"channels": [8, 8, 16, 16]}}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def marked(number, generator, width=8, places=36):
    """Features whose class is the sign of one channel at a place that another channel marks.

    Two other places have this channel larger, one of each sign, so that maxima say nothing; the
    mean of the channel moves by 0.7 of its own deviation.
    """
    features = generator.normal(0.0, 1.0, (number, width, places))
    classes = generator.integers(0, 2, number)
    rows = np.arange(number)
    at = np.array([generator.permutation(places)[:3] for _ in rows])
    features[rows, 0, at[:, 0]] = 6.0
    features[rows, 1, at[:, 0]] = np.where(classes == 1, 2.0, -2.0)
    features[rows, 1, at[:, 1]] = 3.5
    features[rows, 1, at[:, 2]] = -3.5
    return features.astype(np.float16), classes


def test_attention_finds_the_place_that_tells_the_class():
    features, classes = marked(1000, np.random.default_rng(3))
    rows = np.arange(1000)
    learned, tested = rows[:600], rows[600:]
    options = AttentionOptions(steps=300, queries=2, dropout=0.0, smoothing=0.0)
    flat = features.reshape(1000, 1, -1)
    found = attend(flat, classes, learned, tested, options, [(8, 36)], 0)
    statistics = np.concatenate([features.mean(2), features.max(2)], 1)[:, None]
    plain = classify(statistics, classes, learned, tested, 1.0)
    right = [np.mean(one == classes[tested]) for one in (found.argmax(1), plain)]
    # an error of 0.024 at most; a perfect eye would be right in 0.977
    assert right[0] > 0.85
    assert 0.5 < right[1] < 0.75


def test_attention_of_no_queries_yet_is_the_mean():
    torch.manual_seed(0)
    head = AttentionHead([(8, 36), (4, 9)], 3, 2, 0.0).eval()
    with torch.no_grad():
        for query in head.queries:
            query.zero_()
        head.last.weight.normal_()
        features = torch.randn(5, 8 * 36 + 4 * 9)
        first, second = features.split([8 * 36, 4 * 9], 1)
        levels = [first.view(5, 8, 36), second.view(5, 4, 9)]
        parts = [
            part
            for level in levels
            for part in (level.mean(2).repeat_interleave(2, 1), level.amax(2))
        ]
        wanted = head.last(head.norm(torch.cat(parts, 1)))
        assert torch.allclose(head(features), wanted, atol=1e-5)


def test_probabilities_are_of_the_classes_that_there_are():
    features, classes = marked(60, np.random.default_rng(5))
    options = AttentionOptions(steps=5, batch=8)
    rows = np.arange(60)
    flat = features.reshape(60, 1, -1)
    logs = attend(flat, 2 * classes + 1, rows[:40], rows[40:], options, [(8, 36)], 0)
    assert logs.shape == (20, 2)
    assert np.allclose(np.exp(logs).sum(1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        BackboneSpec.model_validate(SMALL),
        BackboneSpec(name="vit_tiny_patch16_224", options={"taps": [2, 4], "img_size": 32}),
    ],
)
def test_statistics_are_those_of_the_layers(spec):
    backbone = start_backbone(spec, 0).eval()
    with torch.inference_mode():
        found = layers(backbone, images := torch.rand(2, 3, 32, 32))
        wanted = torch.cat([one.mean((2, 3)) for one, _ in found], 1)
        assert torch.allclose(pooled(backbone, images, ("mean",)), wanted, atol=1e-5)
        tokens = [one for _, one in found if one is not None]
        assert len(tokens) == (2 if spec.name.startswith("vit") else 0)


def pictures(folder):
    """Bars along or across, with noise."""
    generator = np.random.default_rng(2)
    for kind in range(2):
        for split, dec in (("train", 20.0), ("test", 30.0)):
            for k in range(40):
                image = generator.uniform(0, 60, (32, 32))
                place = int(generator.integers(8, 24))
                image[(slice(None), place) if kind else (place, slice(None))] = 255
                path = folder / split / f"{10 + 5 * kind + 0.05 * k:.3f}_{dec}_{kind}_Bar.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.astype(np.uint8)).save(path)
    return folder


ERROR = 0.056
"""Of a share of 80 pictures."""


def share_right(one):
    """Run a study of one cell; chance is 0.5."""
    assert len(one.missing()) == 1
    assert run_study(one) == {}
    (outcome,) = [outcome for _, outcome in one.outcomes()]
    assert len(outcome.units) == 80
    return np.mean([unit["truth"] == unit["found"] for unit in outcome.units])


def study(folder, images, **frozen):
    task = {
        "kind": "morphology",
        "images": str(images),
        "pictures": {"crop": 32, "size": 32, "precision": "float32"},
        "frozen": frozen,
    }
    content = {
        "backbones": {"small": SMALL},
        "modes": ["random"],
        "fractions": [1.0],
        "reference": 1.0,
        "seeds": 1,
        "resamples": 40,
        "tasks": {"bars": task},
    }
    return Study.plan(StudyOptions.from_mapping(content), folder)


def test_heads_and_joined_backbones_are_options_of_the_study(tmp_path):
    images = pictures(tmp_path / "pictures")
    attention = {"head": "attention", "attention": {"steps": 60, "batch": 16}}
    made = [
        study(tmp_path / "study", images),
        study(tmp_path / "study", images, **attention),
        study(tmp_path / "study", images, beside=[OTHER]),
        study(tmp_path / "study", images, **attention, beside=[OTHER]),
        study(tmp_path / "study", images, beside=[OTHER], joined="probabilities"),
    ]
    kept = []
    for one in made:
        assert share_right(one) > 0.5 + 4 * ERROR
        kept.append(len(list((tmp_path / "study" / "features").iterdir())))
    # the fourth takes what the second has, and only adds the other backbone's; the last has all
    assert kept == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("views", ["samples", "mean"])
def test_all_orientations_together_do_not_tell_along_from_across(tmp_path, views):
    one = study(tmp_path / "study", pictures(tmp_path / "pictures"), orientations=8, views=views)
    assert abs(share_right(one) - 0.5) < 4 * ERROR


def test_features_averaged_over_orientations_are_those_of_the_turned_picture():
    backbone = start_backbone(BackboneSpec.model_validate(SMALL), 0).eval()
    images = torch.rand(2, 3, 32, 32)

    def averaged(images):
        several = [pooled(backbone, turned(images, k), ("mean", "max")) for k in range(8)]
        return torch.stack(several).mean(0)

    with torch.inference_mode():
        for number in (1, 6):
            found = averaged(turned(images, number))
            assert torch.allclose(found, averaged(images), atol=1e-4)
            assert not torch.allclose(
                pooled(backbone, turned(images, number), ("max",)),
                pooled(backbone, images, ("max",)),
                atol=1e-2,
            )


def test_keys_of_cells_know_the_head_and_backbones_that_are_used(tmp_path):
    images = pictures(tmp_path)

    def of(mode="frozen", **frozen):
        given = MorphologyOptions.model_validate({"images": str(images), "frozen": frozen})
        return Morphology("bars", given).fingerprint(mode)

    plain = of()
    # as before there were heads to choose from
    assert set(plain["frozen"]) == {"crops", "pooling", "orientations", "inverse_penalty"}
    assert of(attention={"steps": 3}) == plain
    assert of(views="mean") == of(joined="probabilities") == plain
    several = of(orientations=8)
    assert of(orientations=8, views="mean") != several != plain
    crops = of(crops=[[40, 32]])
    assert of(crops=[[40, 32]], joined="probabilities") != crops != plain
    looking = of(head="attention")
    assert looking != plain
    assert of(head="attention", inverse_penalty=1.0, pooling=["max"]) == looking
    assert of(head="attention", attention={"steps": 3}) != looking
    one, other = (tmp_path / name for name in ("one.safetensors", "other.safetensors"))
    one.write_bytes(b"one")
    other.write_bytes(b"other")
    beside = [of(beside=[SMALL | {"weights": str(path)}]) for path in (one, other)]
    assert beside[0] != beside[1] != plain
    random = [of("random", beside=[SMALL | {"weights": str(path)}]) for path in (one, other)]
    assert random[0] == random[1] != of("random")
    with pytest.raises(InputError, match="nowhere"):
        of(beside=[SMALL | {"weights": "nowhere.safetensors"}])
