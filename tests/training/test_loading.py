"""Batches: the same for any number of workers, ranks and interruptions, and fit for a network."""
# ruff: noqa: E402

import pickle

import numpy as np
import pytest
from requirements import require

require("learned")

import torch
from torch.utils.data import DataLoader

from cyclades.pipeline.simulation.model import CLASSES
from cyclades.pipeline.training.augmentation import AugmentationOptions
from cyclades.pipeline.training.loading import TrainingData, as_targets, collate
from cyclades.pipeline.training.simulated import SimulatedOptions
from cyclades.pipeline.training.sources import build_source
from cyclades.stages.core.errors import ConfigurationError
from cyclades.stages.networks.inputs import normalise, stretch
from cyclades.stages.networks.specification import InputSpec

SIZE = 64
INPUT = InputSpec(mesh=32)
OPTIONS = SimulatedOptions(preset="natural", seed=3)


def data(**changes):
    source = build_source(OPTIONS, SIZE)
    given = {"batch": 3, "number": 6, "seed": 5} | changes
    return TrainingData(source, INPUT, AugmentationOptions(), **given)


def same(one, other):
    assert torch.equal(one[0], other[0])
    assert len(one[1]) == len(other[1])
    for mine, theirs in zip(one[1], other[1], strict=True):
        for name in ("boxes", "classes", "ignore", "masks"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


@pytest.fixture(scope="module")
def batches():
    return list(data())


def test_batches_are_what_a_network_takes(batches):
    assert len(batches) == 6
    for images, targets in batches:
        assert images.shape == (3, 3, SIZE, SIZE)
        assert images.dtype == torch.float32
        assert torch.isfinite(images).all()
        for target in targets:
            n = len(target.boxes)
            assert target.boxes.shape == (n, 4)
            assert target.boxes.dtype == torch.float32
            assert target.classes.shape == target.ignore.shape == (n,)
            assert target.classes.dtype == torch.int64
            assert target.ignore.dtype == torch.bool
            assert target.masks.shape == (n, SIZE, SIZE)
            assert target.masks.dtype == torch.uint8
            assert target.masks.flatten(1).any(1).all()


def test_an_interrupted_run_sees_the_same_batches(batches):
    for one, other in zip(data(first=4, number=2), batches[4:], strict=True):
        same(one, other)
    middle = data(first=2, number=None)
    for other, one in zip(batches[2:], middle, strict=False):
        same(one, other)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(batches, workers):
    # "fork" starts fast; nothing here has run a thread of torch yet that it could break
    loader = DataLoader(
        data(), batch_size=None, num_workers=workers, multiprocessing_context="fork"
    )
    made = list(loader)
    assert len(made) == len(batches)
    for one, other in zip(made, batches, strict=True):
        same(one, other)


def test_data_can_be_sent_to_a_process_without_what_was_made_already(batches):
    used = data()
    next(iter(used))
    sent = pickle.dumps(used)
    assert len(sent) < 200_000
    same(pickle.loads(sent).make(0), batches[0])


def test_ranks_share_the_samples_of_one_process():
    whole = list(data(batch=4, number=2))
    ranks = [list(data(batch=2, number=2, rank=rank, world=2)) for rank in (0, 1)]
    for step in range(2):
        joined = torch.cat([rank[step][0] for rank in ranks])
        assert torch.equal(joined, whole[step][0])


def test_augmentation_differs_from_sample_to_sample_and_from_seed_to_seed():
    one, other = data(), data(seed=6)
    assert not np.array_equal(one.sample(1).image, other.sample(1).image, equal_nan=True)
    bare = TrainingData(one.source, INPUT, None)
    np.testing.assert_array_equal(bare.sample(1).image, one.source.sample(1).image)


def test_masks_and_channels_are_those_of_the_sample():
    sample = build_source(OPTIONS, SIZE).sample(2)
    sample = sample.replace(unlabelled=np.eye(SIZE, dtype=bool))
    images, (target,) = collate([sample], INPUT)
    expected = stretch(normalise(sample.image, INPUT.mesh), INPUT.stretches)
    np.testing.assert_array_equal(images[0].numpy(), expected)
    for row in range(len(sample)):
        pixels = np.flatnonzero(target.masks[row].numpy())
        np.testing.assert_array_equal(pixels, np.sort(sample.segments[row]))
    np.testing.assert_array_equal(target.unlabelled.numpy(), sample.unlabelled)
    assert as_targets(sample, with_masks=False).masks is None


def test_a_sample_without_objects_is_a_target_without_rows():
    sample = build_source(OPTIONS, SIZE).sample(0)
    empty = sample.keep(np.zeros(len(sample), bool)).replace(
        image=np.full((SIZE, SIZE), np.nan, np.float32)
    )
    images, (target,) = collate([empty], INPUT)
    assert not images.any()
    assert target.boxes.shape == (0, 4)
    assert target.masks.shape == (0, SIZE, SIZE)


def test_classes_of_the_network_are_found_by_name():
    changed = data(classes=("spurious", "source"))
    sample = changed.sample(0)
    kinds = changed.source.sample(0).classes
    assert len(sample) > 0
    assert set(sample.classes) == {1}
    assert CLASSES.index("spurious") not in kinds


def test_impossible_numbers_are_refused():
    with pytest.raises(ConfigurationError, match="at least one sample"):
        data(batch=0)
    with pytest.raises(ConfigurationError, match="process 2 of 2"):
        data(rank=2, world=2)
