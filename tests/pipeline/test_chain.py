"""What the chain promises, on stages that do nothing of interest."""

import logging
import pickle

import numpy as np
import pytest
from toy_stages import ToyBackground, ToyCharacterization, ToyDetection, ToyRefinement

from cyclades.pipeline.chain import Pipeline, default_workers
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, InputError
from cyclades.stages.core.io import FitsSource
from cyclades.stages.core.source import ImageSet, MemorySource


def test_run_keeps_the_products_of_every_stage(toys, image):
    result = toys.run(image)
    assert len(result.catalogue.components) == 1
    row = result.catalogue.components[0]
    assert abs(row["x"].value - 30) < 0.3
    assert abs(row["y"].value - 22) < 0.3
    assert result.background.rms.shape == result.image.shape
    assert result.detections.complete
    assert set(result.provenance["timings"]) == {
        "read", "background", "detection", "characterization", "cataloguing",
    }  # fmt: skip
    assert result.provenance["counts"]["components"] == 1


def test_path_source_image_and_set_give_the_same_catalogue(toys, make_field):
    path = make_field()
    source = FitsSource(path)
    planes = ImageSet({"i": source, "q": MemorySource(source.read())}, detection="i")
    tables = [toys.run(x).catalogue.components for x in (path, str(path), source, planes)]
    tables.append(toys.run(source.read()).catalogue.components)
    for table in tables[1:]:
        assert np.all(table["peak_flux"] == tables[0]["peak_flux"])


def test_box_only_detections_are_completed_and_the_log_says_so(toys, image, caplog):
    with caplog.at_level(logging.INFO, "cyclades"):
        result = toys.run(image)
    assert result.detections.segments is not None
    assert any("complete_detections" in record.message for record in caplog.records)
    assert result.provenance["notes"]["chain.complete_detections"] is True


@pytest.mark.parametrize(
    ("last", "absent"),
    [
        ("background", ["detections", "components", "catalogue"]),
        ("detection", ["components", "catalogue"]),
        ("characterization", ["catalogue"]),
        ("cataloguing", []),
    ],
)
def test_run_until(toys, image, last, absent):
    result = toys.run_until(last, image)
    held = ["background", "detections", "components", "catalogue"]
    assert [name for name in held if getattr(result, name) is None] == absent


def test_run_until_unknown_stage_suggests(toys, image):
    with pytest.raises(ConfigurationError, match="did you mean 'detection'"):
        toys.run_until("detecton", image)


def test_beam_is_checked_before_any_pixel_is_read(toys, make_field):
    class Unreadable(FitsSource):
        def window(self, box):
            raise AssertionError("a pixel was read")

        def read(self):
            raise AssertionError("a pixel was read")

    source = Unreadable(make_field(BMAJ=None, BMIN=None, BPA=None))
    with pytest.raises(InputError, match=r"field has no beam.*--beam 5\.4arcsec"):
        toys.run(source)


def test_replace_takes_names_mappings_and_objects(toys):
    changed = toys.replace(
        background="sep", detection={"name": "islands", "seed_threshold": 6}, seed=3
    )
    assert changed.config.background.name == "sep"
    assert changed.config.detection.seed_threshold == 6
    assert isinstance(changed.config.characterization, ToyCharacterization)
    assert changed.config.seed == 3
    assert toys.config.detection == ToyDetection()


def test_replace_refuses_a_stage_of_another_kind(toys):
    with pytest.raises(ConfigurationError, match="declares itself as the characterization 'toy'"):
        toys.replace(detection=ToyCharacterization())


def test_refinement_without_its_column_is_refused(toys, image):
    changed = toys.replace(cataloguing=["components", ToyRefinement()])
    with pytest.raises(ConfigurationError, match="needs the column 'redshift'"):
        changed.run(image)


def test_cataloguing_starts_with_a_builder(toys):
    with pytest.raises(ConfigurationError, match="'toy' cannot be number 1"):
        toys.replace(cataloguing=[ToyRefinement()])


def test_results_without_products(toys, image):
    result = toys.run(image, keep=False)
    assert result.image is None
    assert result.background is None
    assert len(result.catalogue.components) == 1
    with pytest.raises(InputError, match="does not hold"):
        result.model  # noqa: B018


def test_a_lent_context_is_left_open_with_the_notes_of_the_last_run(toys, image):
    with Context(seed=7) as context:
        context.note("stale", 1)
        result = toys.run(image, context=context)
        assert context._limits is not None
        assert "stale" not in result.provenance["notes"]
        assert result.provenance["notes"]["toy.peak"] == pytest.approx(100, abs=5)


def test_threads_stay_within_workers(toys, image):
    """Counted inside a stage, where native libraries and numba have been loaded."""
    import numba
    from threadpoolctl import threadpool_info

    seen = []

    class Counting(ToyDetection):
        def detect(self, image, background, *, context):
            seen.append([numba.get_num_threads(), *(p["num_threads"] for p in threadpool_info())])
            return super().detect(image, background, context=context)

    before = numba.get_num_threads()
    toys.replace(detection=Counting()).run(image, workers=1)
    assert seen[0]
    assert max(seen[0]) == 1
    assert numba.get_num_threads() == before


def test_default_workers_are_bounded(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert default_workers() == 8


def test_pipelines_are_picklable_and_comparable():
    pipeline = Pipeline.from_route("classical")
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline


def test_model_and_residual(toys, image):
    result = toys.run(image)
    assert result.model.shape == image.shape
    assert result.model.dtype == np.float32
    y, x = np.unravel_index(result.model.argmax(), image.shape)
    assert (x, y) == (30, 22)
    # the toy fits the beam to a source of the beam's shape: noise of unit rms is left
    assert 0.8 < result.residual.std() < 1.6


def test_a_network_that_is_missing_is_said_before_the_background(toys, image, monkeypatch):
    seen = []
    estimate = ToyBackground.estimate
    monkeypatch.setattr(
        ToyBackground,
        "estimate",
        lambda *given, **named: seen.append(given) or estimate(*given, **named),
    )
    toys.run(image)
    assert len(seen) == 1
    with pytest.raises(InputError, match=r"no\.safetensors"):
        toys.replace(detection={"name": "yolo", "weights": "no.safetensors"}).run(image)
    assert len(seen) == 1
