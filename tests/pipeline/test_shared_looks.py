"""A region head that sees features of a detector's backbone: one look for the whole route."""

import numpy as np
import pytest
from report_cases import make_wcs
from skies import correlated_noise

from cyclades.pipeline.chain import Pipeline
from cyclades.stages.characterization import learned
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.registry import create_stage
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.core.tiling import Box
from cyclades.stages.networks.cell_maps import Wanted, seen_cells, want_cells
from cyclades.stages.networks.graphs import GraphDetector
from cyclades.stages.networks.region_cells import REGION, regions, trunk_of
from cyclades.stages.networks.tiles import Frame
from cyclades.stages.networks.weights import find_detector
from tests.requirements import require

require("onnx")
require("learned")

SHAPE = (160, 560)
BEAM = np.array([[4.0, 0.6], [0.6, 3.2]])
LOOK = {"runtime": "onnx", "tile": 320}
ALONE = {"name": "yolo", "coarse": [], **LOOK}
COLUMNS = ("x", "y", "peak_flux", "total_flux", "total_flux_err", "major")


@pytest.fixture(scope="module")
def image():
    """Points, wider sources and a double in natural noise."""
    rng = np.random.default_rng(4)
    x, y = (v.ravel() + rng.uniform(-4, 4, 33) for v in np.meshgrid(
        np.linspace(25, 535, 11), np.linspace(25, 135, 3)))  # fmt: skip
    rows = np.column_stack([rng.uniform(8, 80, 33), x, y, *np.tile([4.0, 0.6, 3.2], (33, 1)).T])
    rows[::3, 3:] += [6.0, 1.0, 2.0]
    data = render_gaussians(SHAPE, rows) + correlated_noise(SHAPE, rng, BEAM)
    wcs = make_wcs(SHAPE)
    return SkyImage(data.astype(np.float32), wcs=wcs, psf=PointSpread(BEAM, wcs))


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head that says little, but hangs on what it sees of the backbone."""
    import torch

    from cyclades.stages.networks.region_head import RegionNetwork, save_region_network
    from cyclades.stages.networks.region_spec import RegionSpec

    torch.manual_seed(1)
    network = RegionNetwork(RegionSpec(width=16, members=2, trunk=trunk_of("yolo"))).eval()
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    with torch.no_grad():
        for one in network.heads:
            one.last.weight *= 20.0
    save_region_network(network, path)
    return path


@pytest.fixture
def seen(monkeypatch):
    """Shapes of the tiles that networks are shown."""
    made, whole = [], GraphDetector.detect

    def counted(self, channels):
        made.extend(channels.shape[-2:] for _ in channels)
        return whole(self, channels)

    monkeypatch.setattr(GraphDetector, "detect", counted)
    return made


def run(image, head, context, apart=False, **sections):
    """Run a route; with `apart`, nothing that a stage saw is left to the next."""

    def told(stage):
        if apart and stage != "read":
            context.keep_only("detector", "measurer", "background")

    route = Pipeline.from_route({"detection": ALONE}).replace(
        characterization={"name": "learned", "weights": str(head), "tile": LOOK["tile"]},
        cataloguing=["components", "associate"], **sections,
    )  # fmt: skip
    return route.run(image, context=context, progress=told)


def number_of_tiles(image, context):
    loaded = [value for key, value in context._cache.items() if key[0] == "detector"]
    assert len(loaded) == 1
    return len(Frame.of(image, loaded[0].spec).tiles(LOOK["tile"], loaded[0].stride))


def same(one, other, tolerance=0.0):
    assert len(one.catalogue.components) == len(other.catalogue.components) > 20
    for name in COLUMNS:
        held = (made.catalogue.components[name] for made in (one, other))
        np.testing.assert_allclose(*held, tolerance, err_msg=name)


BACKGROUNDS = {
    "grid": {},
    "dense": {"background": {"name": "dense", **LOOK}},
    "masked": {"background": {"name": "masked", "weights": "yolo", "coarse": [], **LOOK}},
}


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_learned_route_sees_every_tile_once(image, head, seen, background):
    sections = BACKGROUNDS[background]
    with Context() as context:
        once = run(image, head, context, **sections)
        tiles = number_of_tiles(image, context)
        assert context.notes["characterization.shared"]
        assert len(seen) == tiles > 1
        assert set(once.catalogue.components["fit_type"]) == {"learned"}
        # nothing is left of an image that was measured
        kept = [key[0] for key in context._cache if isinstance(key, tuple)]
        assert len(context._cache) == len(kept)
    seen.clear()
    with Context() as context:
        apart = run(image, head, context, apart=True, **sections)
        assert not context.notes["characterization.shared"]
    assert len(seen) == tiles * (2 + bool(sections))
    same(once, apart)


def test_a_route_without_the_detector_looks_itself(image, head, seen):
    with Context() as context:
        made = run(image, head, context, detection="islands")
        assert len(seen) >= 1
        assert not context.notes["characterization.shared"]
        assert len(made.catalogue.components) > 20
        # a later run of the context wants nothing of the network
        plain = Pipeline.from_route({"detection": ALONE})
        plain.run(image, context=context)
        assert not context.wanted


def test_the_catalogue_does_not_depend_on_workers_or_windows(image, head):
    with Context() as context:
        one = run(image, head, context)
    with Context(workers=3) as context:
        many = run(image, head, context)
    same(one, many, 1e-5)  # sums of threads are rounded otherwise
    with Context() as context:
        route = one.config.replace(image={"window": 150})
        windowed = Pipeline(route).run(image, context=context)
        assert "characterization 'learned' needs the image as a whole" in context.notes["windows"]
    same(one, windowed)


def test_features_make_a_difference(image, head, monkeypatch):
    with Context() as context:
        one = run(image, head, context)
    monkeypatch.setattr(learned, "regions", lambda *given: np.zeros_like(regions(*given)))
    with Context() as context:
        other = run(image, head, context)
    ratio = other.catalogue.components["total_flux"] / one.catalogue.components["total_flux"]
    assert np.abs(np.asarray(ratio) - 1.0).max() > 1e-3


def cells_of(image, **parameters):
    """All features of the cells of an image."""
    context, trunk = Context(), trunk_of("yolo")
    wanted = Wanted(find_detector("yolo"), trunk.channels, lambda features: features)
    want_cells(context, wanted)
    create_stage("detection", "yolo", **parameters).look(image, context=context)
    return seen_cells(context, wanted, image)


def test_regions_are_those_of_the_full_frame(image):
    # several tiles high, so that a part begins in the middle of one
    data = np.tile(image.data, (4, 1))
    whole = SkyImage(data, psf=PointSpread(BEAM))
    part = whole.cutout(Box(210, 640, 0, 560))
    centre = np.random.default_rng(2).uniform([60.0, 400.0], [500.0, 540.0], (20, 2))
    frame = np.broadcast_to(np.eye(2) * 1.9, (20, 2, 2))
    one = regions(cells_of(whole), centre, frame)
    other = regions(cells_of(part), centre - [0.0, 210.0], frame)
    assert one.shape == (20, 256, REGION, REGION)
    assert np.sqrt(((one - other) ** 2).mean()) < 0.03 * one.std()
    # pixels that are taken for another place have features of other cells
    moved = regions(cells_of(part.replace(origin=(203, 5))), centre - [0.0, 210.0], frame)
    assert np.sqrt(((one - moved) ** 2).mean()) > 0.1 * one.std()


def test_another_backbone_is_refused(image, head, tmp_path):
    import torch

    from cyclades.stages.networks.region_head import RegionNetwork, save_region_network
    from cyclades.stages.networks.region_spec import RegionSpec

    torch.manual_seed(1)
    trunk = trunk_of("yolo").model_copy(update={"sha256": "0" * 64})
    path = tmp_path / "other.safetensors"
    save_region_network(RegionNetwork(RegionSpec(width=16, trunk=trunk)), path)
    with pytest.raises(InputError, match="trained on a backbone, yolo, that is not here or has"):
        run(image, path, Context())
