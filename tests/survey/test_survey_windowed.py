"""A field that is worked through in windows leaves the survey what it leaves as a whole."""

import numpy as np
import pytest
from astropy.io import fits
from mocpy import MOC

from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.survey.facts import grid_file, moc_file
from cyclades.pipeline.survey.journal import read_entries
from cyclades.pipeline.survey.noise_grid import NoiseGrid
from cyclades.pipeline.survey.run import run_survey
from cyclades.pipeline.survey.work import ROWS, Work
from cyclades.stages.core.headers import product_header
from tests.windowed import differences, seamed_sky


@pytest.fixture(scope="module")
def surveys(tmp_path_factory):
    """Batches of one image with blanks, as a whole and in windows of 128 and 192 pixels."""
    folder = tmp_path_factory.mktemp("windowed")
    image = seamed_sky()
    path = folder / "seams.fits"
    fits.PrimaryHDU(image.data, product_header(image)).writeto(path)
    made = {}
    for window in (0, 128, 192):
        config = RouteConfig.from_mapping(
            {"background": "grid", "detection": {"name": "islands", "seed_threshold": 5.5},
             "image": {"window": window, "blank_zeros": False}}
        )  # fmt: skip
        made[window] = folder / str(window)
        run_survey(Work.plan(config, made[window]), [path])
    return made


@pytest.mark.parametrize("window", [128, 192])
def test_products_of_a_windowed_field_are_those_of_the_whole(surveys, window):
    from cyclades import read_catalogue

    mine, right = surveys[window], surveys[0]
    catalogues = [read_catalogue(one / "survey.catalogue.fits") for one in (mine, right)]
    assert len(catalogues[1].components) > 30
    assert differences(*catalogues) == {}
    grids = [NoiseGrid.read(grid_file(one / ROWS, "seams")) for one in (mine, right)]
    assert grids[0].header == grids[1].header
    assert (grids[0].step, grids[0].limit) == (grids[1].step, grids[1].limit)
    np.testing.assert_array_equal(grids[0].pixels, grids[1].pixels)
    np.testing.assert_allclose(grids[0].rms, grids[1].rms, rtol=1e-5)
    mocs = [MOC.load(str(moc_file(one / ROWS, "seams")), "fits") for one in (mine, right)]
    assert mocs[0] == mocs[1]
    facts = [read_entries(one)[0].facts for one in (mine, right)]
    assert facts[0].keys() == facts[1].keys() >= {"rms", "residual_rms", "area", "limit"}
    # of files whose contents agree to 1e-5
    del facts[1]["sizes"]
    for name, value in facts[1].items():
        assert facts[0][name] == pytest.approx(value, rel=2e-4, abs=1e-6), name
    from astropy.table import Table

    for name in ("area", "counts"):
        tables = [Table.read(one / f"survey.{name}.ecsv") for one in (mine, right)]
        assert tables[0].colnames == tables[1].colnames
        for column in tables[1].colnames:
            np.testing.assert_allclose(tables[0][column], tables[1][column], rtol=1e-4)
