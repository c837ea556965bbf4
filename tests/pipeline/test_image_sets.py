"""The chain over several bands: one detection, fluxes of every band."""

import json

import numpy as np
import pytest
from astropy.io import fits

from cyclades.pipeline.chain import Pipeline
from cyclades.pipeline.cli import main
from cyclades.pipeline.simulation.optical import simulate_optical
from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.pipeline.simulation.optical_sky import STAR, MagnitudeCounts, OpticalSkyOptions
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.errors import InputError
from cyclades.stages.core.flags import Flag
from cyclades.stages.core.image_options import ImageOptions
from cyclades.stages.core.io import FitsSource
from cyclades.stages.core.source import ImageSet

BANDS = ("g", "r", "z")


@pytest.fixture(scope="module")
def simulation():
    sky = OpticalSkyOptions(
        stars=MagnitudeCounts(density=20000.0), galaxies=MagnitudeCounts(density=2000.0), blends=0.0
    )
    return simulate_optical(OpticalOptions(size=320, sky=sky), seed=21)


@pytest.fixture(scope="module")
def result(simulation):
    return Pipeline.from_route("optical").run(simulation.image_set("chi-squared"))


def command(*arguments):
    with pytest.raises(SystemExit) as left:
        main(["run", *arguments])
    return left.value.code


def numbers(table, name):
    return np.asarray(getattr(table[name], "value", table[name]), float)


def test_every_band_has_its_columns_in_the_rows_of_one_catalogue(result):
    catalogue = result.catalogue
    assert len(catalogue) > 20
    assert len(catalogue.sources) == len(catalogue)  # every object is a source
    for band in BANDS:
        assert len(result.planes.catalogues[band]) == len(catalogue)
        for name in ("peak_flux", "total_flux", "psf_flux", "kron_flux", "spread_model"):
            assert f"{name}_{band}" in catalogue.components.colnames
        assert catalogue.components[f"psf_flux_{band}"].unit.to_string() == "nJy"
        np.testing.assert_array_equal(
            numbers(catalogue.components, f"total_flux_{band}"),
            numbers(catalogue.components, f"kron_flux_{band}"),
        )
    assert not any(name.startswith("_") for name in catalogue.components.colnames)
    notes = [note for key, note in result.provenance["notes"].items() if key.startswith("psf.")]
    assert len(notes) == 4  # three bands, and the mean that positions are measured on


def test_psf_fluxes_of_stars_are_true_and_their_class_is_right(simulation, result):
    table, sky = result.catalogue.components, simulation.sky
    x, y = numbers(table, "x"), numbers(table, "y")
    label = np.asarray(table["morphology"], str)
    n = simulation.options.size
    inside = (sky.object_class == STAR) & (np.minimum(sky.x, sky.y) > 8)
    inside &= np.maximum(sky.x, sky.y) < n - 8
    rows = [int(np.hypot(x - a, y - b).argmin()) for a, b in zip(sky.x, sky.y, strict=True)]
    near = np.array([np.hypot(x[k] - a, y[k] - b) < 1.0 for k, a, b in zip(rows, sky.x, sky.y,
                                                                         strict=True)])  # fmt: skip
    rows = np.array(rows)
    for band in BANDS:
        true = sky.object_flux(band)
        error = numbers(table, f"psf_flux_err_{band}")[rows]
        bright = inside & near & (true > 30 * error)
        assert bright.sum() >= 8
        ratio = numbers(table, f"psf_flux_{band}")[rows][bright] / true[bright]
        # within what a profile from some ten stars allows
        assert np.median(ratio) == pytest.approx(1.0, abs=0.03)
    assert np.mean(label[rows][bright] == "star") > 0.8


def test_saturated_stars_are_flagged_and_not_called_galaxies(simulation):
    images = {
        # two stars or more are clipped in r and z, and fewer pixels in g
        band: image.replace(data=np.minimum(image.data, share * image.data.max()))
        for (band, image), share in zip(simulation.images.items(), (0.6, 0.1, 0.1), strict=True)
    }
    table = Pipeline.from_route("optical").run(ImageSet.of(images)).catalogue.sources
    full = {b: (np.asarray(table[f"flags_{b}"]) & int(Flag.SATURATED)) > 0 for b in BANDS}
    some, everywhere = np.any(list(full.values()), 0), np.all(list(full.values()), 0)
    flags = np.asarray(table["flags"])
    assert some.sum() >= 2
    assert some.sum() < 0.3 * len(table)
    np.testing.assert_array_equal((flags & int(Flag.SATURATED)) > 0, some)
    np.testing.assert_array_equal((flags & int(Flag.NOT_CLASSIFIED)) > 0, everywhere)
    label = np.asarray(table["morphology"], str)
    np.testing.assert_array_equal(label[everywhere], "")
    assert np.isnan(numbers(table, "morphology_probability")[everywhere]).all()
    assert set(label[some & ~everywhere]) <= {"star"}


def test_one_plane_gives_the_same_rows_as_its_image(simulation):
    route = Pipeline.from_route("optical").replace(
        characterization="moments", cataloguing=["components"]
    )
    alone = route.run(simulation.images["r"]).catalogue.components
    plane = route.run(ImageSet.of({"r": simulation.images["r"]})).catalogue.components
    np.testing.assert_array_equal(alone["x"], plane["x"])
    np.testing.assert_array_equal(alone["kron_flux"], plane["kron_flux"])
    assert set(plane.colnames) > set(alone.colnames)


def test_a_plane_without_a_psf_is_refused_before_anything_runs(simulation):
    images = {**simulation.images, "z": simulation.images["z"].replace(psf=None)}
    with pytest.raises(InputError, match=r"the plane z .* has no PSF"):
        Pipeline.from_route("classical").check(ImageSet.of(images))


def test_files_of_a_set_are_read_as_the_configuration_says(simulation, tmp_path):
    planes = {}
    for band, image in simulation.images.items():
        path = tmp_path / f"{band}.fits"
        fits.PrimaryHDU(image.data, image.wcs.to_header()).writeto(path)  # tells no beam
        planes[band] = path
    made, route = ImageSet.of(planes), Pipeline.from_route("optical")
    with pytest.raises(InputError, match="has no PSF"):
        route.replace(image={"per_pixel": True}).check(made)
    assert route.check(made).psf is not None
    told = FitsSource(planes["g"], ImageOptions(beam="2arcsec"))
    read = ImageSet.of({**planes, "g": told}).read_with(route.config.image)
    assert read.planes["g"] is told
    assert read.planes["r"].options == route.config.image
    assert read.read_with(route.config.image) is read


def test_nothing_found_is_an_empty_catalogue(simulation):
    noise = np.random.default_rng(3).standard_normal((96, 96)).astype("f4")
    images = {b: simulation.images[b].replace(data=noise, wcs=None, full_shape=(0, 0))
              for b in BANDS}  # fmt: skip
    found = Pipeline.from_route("optical").replace(
        detection={"name": "sep", "minimum_peak": 50.0}
    ).run(ImageSet.of(images))  # fmt: skip
    assert len(found.catalogue) == 0


def test_the_command_line(simulation, tmp_path, capsys):
    paths = []
    for band, image in simulation.images.items():
        path = tmp_path / f"sky_{band}.fits"
        header = image.wcs.to_header()
        fits.PrimaryHDU(image.data, header).writeto(path)
        paths.append(f"{band}={path}")
    common = [*paths, "-o", str(tmp_path / "out"), "--route", "optical"]
    assert command(*common, "--detection-plane", "r", "--dry-run") == 0
    assert "detected on r" in capsys.readouterr().out
    chosen = ["--set", "characterization=moments", "--set", "cataloguing=[components]"]
    assert command(*common, "--detection-plane", "r", "--json", *chosen) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["detection_plane"] == "r"
    stored = read_catalogue(tmp_path / "out" / "sky.catalogue.fits")
    assert {f"total_flux_{band}" for band in BANDS} <= set(stored.components.colnames)
    record = json.loads((tmp_path / "out" / "sky.provenance.json").read_text())
    assert record["input"]["planes"]["g"]["path"].endswith("sky_g.fits")
    for wrong, message in (
        ([*paths, paths[0].partition("=")[2]], "has no name, while other planes have"),
        ([paths[0], paths[0]], "Two planes have the same name"),
        ([paths[0].partition("=")[2], "--detection-plane", "r"], "planes given as NAME=IMAGE"),
        ([*paths, "--detection-plane", "i"], "'i' is not among the planes g, r, z"),
    ):
        assert command(*wrong, "-o", str(tmp_path / "no"), "--route", "optical") == 2
        assert message in capsys.readouterr().err
