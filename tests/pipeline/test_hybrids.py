"""Any combination of stages runs and gives the same kind of catalogue; looks are shared."""

import itertools

import numpy as np
import pytest
from report_cases import make_wcs
from skies import correlated_noise

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.config import RouteConfig, routes
from cyclades.stages.core import schema
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.errors import ConfigurationError, CycladesError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.registry import BUILT_IN, list_stages, stage_class
from cyclades.stages.core.rendering import render_gaussians
from cyclades.stages.core.stage import KINDS, RefinementStage
from cyclades.stages.networks.graphs import GraphDetector
from cyclades.stages.networks.heads.table import list_detections
from cyclades.stages.networks.tiles import Frame
from tests.requirements import require

SIDE = 168
BEAM = np.array([[4.0, 0.6], [0.6, 3.2]])
BRIGHTEST = (200.0, 50.3, 118.6)
"""Peak in units of the noise, x and y."""
ROWS = np.array(
    [
        [*BRIGHTEST, *BEAM[[0, 0, 1], [0, 1, 1]]],
        [40.0, 120.2, 132.7, *BEAM[[0, 0, 1], [0, 1, 1]]],
        [25.0, 139.7, 40.1, *BEAM[[0, 0, 1], [0, 1, 1]]],
        [18.0, 60.0, 48.0, 60.0, 25.0, 40.0],
        [30.0, 108.0, 84.5, 9.0, 4.0, 6.0],
        [22.0, 124.0, 92.5, 9.0, 4.0, 6.0],
        [12.0, 24.0, 24.0, *BEAM[[0, 0, 1], [0, 1, 1]]],
    ]
)
"""Points, an extended source, and a double with lobes in islands of their own."""
BAD = int(Flag.FIT_FAILED)
MEASURED_BY = {"star_galaxy": "psf"}
"""Refinements that need the columns of one characterization."""


def _registered():
    """Stages by kind; heads of detectors of which none ships have tests of their own."""
    heads = set(list_detections()) - BUILT_IN["detection"].keys()
    return {k: [n for n in names if n not in heads] for k, names in list_stages().items()}


STAGES = _registered()
PAIRS = [
    (first, one, second, other)
    for first, second in itertools.combinations(KINDS, 2)
    for one in STAGES[first]
    for other in STAGES[second]
]


def section(kind, name):
    """What stands for a stage in a configuration; refinements follow the first of the list."""
    if kind != "cataloguing":
        return name
    refines = issubclass(stage_class(kind, name), RefinementStage)
    return ["components", name] if refines else [name]


def wanted(sections):
    """The characterization that the refinements of a route need, if they need one."""
    return next((MEASURED_BY[n] for n in sections.get("cataloguing", ()) if n in MEASURED_BY), None)


class Runs:
    """Runs of many routes on one image; each begins where it first differs from all before."""

    def __init__(self):
        rng = np.random.default_rng(21)
        shape = (SIDE, SIDE)
        wcs = make_wcs(shape)
        data = render_gaussians(shape, ROWS) + correlated_noise(shape, rng, BEAM) + 2.0
        self.image = SkyImage(data.astype(np.float32), wcs=wcs, psf=PointSpread(BEAM, wcs))
        self.context = Context()
        self.made = {}
        self.refused = {}

    def run(self, **sections):
        """The result of a route; the test is skipped where a stage lacks its weights."""
        for kind, entry in sections.items():
            for name in entry if isinstance(entry, list) else [entry]:
                self._need(kind, name)
        pipeline = Pipeline(RouteConfig.from_mapping(sections))
        keys = [repr(pipeline.config.to_mapping()[kind]) for kind in KINDS]
        for length in range(len(KINDS), 0, -1):
            earlier = self.made.get(tuple(keys[:length]))
            if earlier is not None:
                break
        if earlier is None:
            result = pipeline.run(self.image, context=self.context)
        elif length == len(KINDS):
            return earlier
        else:
            result = pipeline.run_from(KINDS[length], earlier, context=self.context)
        for length in range(1, len(KINDS) + 1):
            self.made.setdefault(tuple(keys[:length]), result)
        return result

    def _need(self, kind, name):
        """Skip where a stage cannot run as it comes, and remember."""
        if (kind, name) not in self.refused:
            self.refused[kind, name] = ""
            if stage_class(kind, name).capabilities.needs_weights:
                self.refused[kind, name] = self._why_not(kind, name)
        why = self.refused[kind, name]
        if why:
            require("onnx")
            require("learned")
            pytest.skip(why)

    def _why_not(self, kind, name):
        weights = stage_class(kind, name).model_fields.get("weights")
        if weights is not None and "/" in str(weights.default):
            return f"the weights of {kind} {name} would have to be fetched"
        try:
            self.run(**{kind: section(kind, name)})
        except CycladesError as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def runs():
    made = Runs()
    with made.context:
        yield made


def check(result, runs):
    """What every route promises."""
    catalogue = result.catalogue
    # apertures, say, have columns of their own; they hang on the characterization alone
    alike = runs.run(characterization=result.config.characterization.name).catalogue
    added = {name for stage in result.config.cataloguing[1:] for name in stage.adds}
    for name, table in catalogue.tables.items():
        columns = set(table.colnames)
        assert {spec.name for spec in schema.columns(name)} <= columns
        assert all(schema.column(name, column).description for column in columns - added)
        assert columns - added == set(alike.tables[name].colnames) - added, name
        for column in columns - added:
            expected = alike.tables[name][column]
            assert table[column].unit == expected.unit, column
            assert table[column].dtype.kind == expected.dtype.kind, column
    components = catalogue.components
    assert len(components)
    assert set(components["detected_by"]) == {result.config.detection.name}
    assert set(components["measured_by"]) == {result.config.characterization.name}
    good = (np.asarray(components["flags"]) & BAD) == 0
    assert good.any()
    for name in ("peak_flux", "total_flux"):
        values = np.asarray(components[name], float)[good]
        errors = np.asarray(components[f"{name}_err"], float)[good]
        assert np.isfinite(values).all(), name
        assert (errors[np.isfinite(errors)] >= 0).all(), name
    assert np.isfinite(np.asarray(catalogue.sources["total_flux"], float)).any()
    assert set(components["source_id"]) <= set(catalogue.sources["source_id"])
    assert set(components["island_id"]) <= set(catalogue.islands["island_id"])
    check_brightest(components, 2.0 if result.config.background.name == "none" else 0.0)


def check_brightest(components, level):
    """The brightest is where it was put, as bright as it was, within its errors."""
    peak, x, y = BRIGHTEST
    values = {n: np.asarray(components[n], float) for n in ("x", "y", "peak_flux")}
    errors = {n: np.nan_to_num(np.asarray(components[f"{n}_err"], float)) for n in values}
    place = np.hypot(values["x"] - x, values["y"] - y)
    row = int(place.argmin())
    # besides the errors: what pixels and apertures leave, and a level that is not taken off
    assert place[row] < 5.0 * np.hypot(errors["x"][row], errors["y"][row]) + 0.05
    off = abs(values["peak_flux"][row] - peak)
    assert off < 5.0 * errors["peak_flux"][row] + 0.02 * peak + level


@pytest.mark.parametrize(
    ("first", "one", "second", "other"), PAIRS, ids=lambda value: value.replace("_", "-")
)
def test_every_pair_of_stages_makes_a_catalogue(first, one, second, other, runs):
    sections = {first: section(first, one), second: section(second, other)}
    measured_by = wanted(sections)
    if measured_by is not None and sections.get("characterization", measured_by) != measured_by:
        with pytest.raises(ConfigurationError, match="needs the column"):
            RouteConfig.from_mapping(sections)
        return
    if measured_by is not None:
        sections["characterization"] = measured_by
    check(runs.run(**sections), runs)


@pytest.mark.slow
@pytest.mark.parametrize("background", STAGES["background"])
def test_every_combination_of_stages_makes_a_catalogue(background, runs):
    refined = [n for n in STAGES["cataloguing"] if len(section("cataloguing", n)) > 1]
    lists = [
        ["components", *chosen]
        for number in range(len(refined) + 1)
        for chosen in itertools.permutations(refined, number)
    ]
    ran = 0
    for chosen in itertools.product(STAGES["detection"], STAGES["characterization"], lists):
        sections = dict(zip(KINDS, (background, *chosen), strict=True))
        if wanted(sections) not in (None, sections["characterization"]):
            continue
        try:
            result = runs.run(**sections)
        except pytest.skip.Exception:
            continue
        check(result, runs)
        ran += 1
    if runs.refused.get(("background", background)):
        pytest.skip(runs.refused["background", background])
    assert ran >= 3 * len(STAGES["characterization"])


def test_routes_that_come_with_the_package_make_catalogues_of_one_kind(runs):
    for name in routes():
        config = RouteConfig.from_route(name)
        sections = {kind: getattr(config, kind) for kind in KINDS}
        result = Pipeline(RouteConfig.from_mapping(sections)).run(runs.image, context=runs.context)
        check(result, runs)


LOOK = {"tile": 320, "coarse": []}
LEARNED = [n for n in ("yolo", "mask_rcnn") if n in STAGES["detection"]]


@pytest.mark.parametrize("network", LEARNED)
def test_a_route_of_learned_stages_looks_once_at_every_tile(network, monkeypatch):
    seen = []
    whole = GraphDetector.detect

    def counted(self, channels):
        seen.extend(channels.shape[-2:] for _ in channels)
        return whole(self, channels)

    monkeypatch.setattr(GraphDetector, "detect", counted)
    shape = (200, 420)
    data = render_gaussians(shape, ROWS) + correlated_noise(shape, np.random.default_rng(4), BEAM)
    wcs = make_wcs(shape)
    image = SkyImage(data.astype(np.float32), wcs=wcs, psf=PointSpread(BEAM, wcs))
    look = {"weights": network, "runtime": "onnx", **LOOK}
    detector = {"name": network, **look}
    alone = Pipeline.from_route({"detection": detector})
    learned = alone.replace(
        background={"name": "masked", **look}, cataloguing=["components", "associate"]
    )
    numbers = {}
    for label, pipeline in {"alone": alone, "learned": learned}.items():
        seen.clear()
        with Context() as context:
            pipeline.run(image, context=context)
            loaded = [value for key, value in context._cache.items() if key[0] == "detector"]
        numbers[label] = len(seen)
        assert len(loaded) == 1
    frame = Frame.of(image, loaded[0].spec)
    tiles = frame.tiles(loaded[0].size or LOOK["tile"], loaded[0].stride, whole=loaded[0].whole)
    assert len(tiles) > 1
    assert numbers == {"alone": len(tiles), "learned": len(tiles)}
    # another image object is another look
    seen.clear()
    with Context() as context:
        start = learned.run_until("background", image, context=context)
        start.config.detection.detect(image.replace(), start.background, context=context)
    assert len(seen) == 2 * len(tiles)
