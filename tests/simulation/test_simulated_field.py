"""Whole fields: what was asked for is in the image, and the same seed gives the same bytes."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from cyclades.pipeline.cli import main
from cyclades.pipeline.simulation.counts import HopkinsCounts
from cyclades.pipeline.simulation.field import FieldOptions, make_field, simulate
from cyclades.pipeline.simulation.plain import PlainOptions
from cyclades.pipeline.simulation.sky import SkyOptions
from cyclades.pipeline.simulation.truth import read_truth
from cyclades.stages.core.catalogue import read_catalogue
from cyclades.stages.core.errors import ConfigurationError, OutputError

SMALL = FieldOptions(size=256)


@pytest.fixture(scope="module")
def simulation():
    return simulate(SMALL, seed=7)


def digest(simulation):
    arrays = (simulation.image.data, simulation.rms, simulation.level, simulation.sky.flux)
    return [hashlib.sha256(a.tobytes()).hexdigest() for a in arrays]


def test_same_seed_same_bytes(simulation):
    again = simulate(SMALL, seed=7)
    assert digest(again) == digest(simulation)
    assert again.truth.catalogue == simulation.truth.catalogue
    np.testing.assert_array_equal(again.truth.segments.indices, simulation.truth.segments.indices)
    assert digest(simulate(SMALL, seed=8)) != digest(simulation)


def test_other_processors_make_the_same_field(simulation, tmp_path):
    # numpy without its vector instructions gives other last bits of exponentials and logarithms
    dispatched = " ".join(np._core._multiarray_umath.__cpu_dispatch__)
    code = (
        "import sys, numpy as np\n"
        "from cyclades.pipeline.simulation.field import FieldOptions, simulate\n"
        "made = simulate(FieldOptions(size=256), seed=7)\n"
        "np.savez(sys.argv[1], data=made.image.data, x=made.sky.x, y=made.sky.y,"
        " flux=made.sky.flux, sxx=made.sky.sxx)"
    )
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "other.npz"],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": dispatched},
    )
    other = np.load(tmp_path / "other.npz")
    for name in ("x", "y", "flux", "sxx"):
        np.testing.assert_array_equal(other[name], getattr(simulation.sky, name))
    data = simulation.image.data
    difference = np.abs(other["data"] - data)
    assert np.all(difference <= np.maximum(1e-5 * simulation.rms, np.spacing(np.abs(data))))


def test_the_sky_does_not_depend_on_the_noise(simulation):
    other = FieldOptions(size=256, plain=PlainOptions(autocorrelation="beam", level=0.0))
    np.testing.assert_array_equal(simulate(other, seed=7).sky.x, simulation.sky.x)


def test_noise_has_the_true_rms():
    options = FieldOptions(size=512, plain=PlainOptions(rms_ratio=3.0))
    field = make_field(options, options.geometry(), np.random.SeedSequence(2))
    seen = field.observation
    noise = (seen.data - seen.level - field.clean) / seen.rms
    independent = noise.size / (2 * field.geometry.beam_area)
    assert abs(noise.std() - 1.0) < 4 / np.sqrt(2 * independent)
    assert abs(noise.mean()) < 4 * np.sqrt(2 / independent)


def test_the_image_has_the_beam_and_the_frame_asked_for(simulation):
    beam = simulation.image.beam
    assert beam.major.to_value("arcsec") == pytest.approx(10.0, rel=1e-6)
    assert beam.minor.to_value("arcsec") == pytest.approx(8.0, rel=1e-6)
    assert beam.pa.to_value("deg") == pytest.approx(30.0, abs=1e-4)
    assert simulation.image.unit.to_string() == "Jy / beam"
    ra, dec = simulation.image.wcs.wcs_pix2world(128, 128, 0)
    assert (ra, dec) == (pytest.approx(180.0), pytest.approx(-30.0))


def test_faint_objects_make_confusion_without_a_mean():
    def clean(faintest):
        plain = PlainOptions(rms=1e-4, rms_ratio=1.0)
        options = FieldOptions(
            size=1024,
            plain=plain,
            sky=SkyOptions(counts=HopkinsCounts(brightest=1e-4), faintest=faintest),
        )
        return make_field(options, options.geometry(), np.random.SeedSequence(3)).clean

    confused = clean(0.1)
    assert abs(confused.mean(dtype=float)) < 1e-3 * confused.std()
    # sqrt of the integral of S^2 dN/dS over the beam, for fluxes of 10 to 100 microjanskys
    s = np.geomspace(1e-5, 1e-4, 4000)
    counts = HopkinsCounts().differential(s)
    pixel = np.radians(2 / 3600) ** 2
    area = 2 * np.pi * (10 / 2) * (8 / 2) / (8 * np.log(2)) * pixel
    expected = np.sqrt(np.trapezoid(s**2 * counts, s) * area / 2)
    # clusters of a third of the objects raise it a little
    assert 0.9 * expected < confused.std() < 1.3 * expected
    assert clean(0.8).std() < confused.std()


def test_every_bright_object_is_in_the_truth(simulation):
    sky, numbers = simulation.sky, np.asarray(simulation.truth.catalogue.components["object"])
    flux = np.bincount(sky.owner, sky.flux)
    x, y = (np.bincount(sky.owner, sky.flux * v) / flux for v in (sky.x, sky.y))
    inside = (x > 2) & (x < 253) & (y > 2) & (y < 253)
    points = (sky.object_class == 0) & inside & (flux > 1.001 * simulation.rms.max())
    assert points.sum() > 10
    assert set(np.flatnonzero(points)) <= set(numbers)
    assert numbers.min() >= 0


def test_files_round_trip(simulation, tmp_path):
    files = simulation.write(tmp_path / "new" / "field")
    names = ["field.fits", "field.rms.fits", "field.level.fits", "field.truth.coco.json"]
    assert [path.name for path in files] == [*names, "field.truth.fits", "field.config.yaml"]
    assert sorted(p.name for p in files[0].parent.iterdir()) == sorted(p.name for p in files)
    np.testing.assert_array_equal(fits.getdata(files[0]), simulation.image.data)
    np.testing.assert_array_equal(fits.getdata(files[1]), simulation.rms)
    truth = read_truth(files[0])
    assert truth.catalogue.meta["image"] == "field"
    assert truth.catalogue.meta["configuration"]["seed"] == 7
    assert truth.catalogue.components.colnames == simulation.truth.catalogue.components.colnames
    assert read_catalogue(files[4]) == truth.catalogue
    back = FieldOptions.from_mapping(FieldOptions.read_mapping(files[5]))
    assert back == simulation.options


def test_nothing_is_left_where_writing_fails(simulation, tmp_path):
    (tmp_path / "field.fits").mkdir()
    with pytest.raises(OutputError, match="could not be written"):
        simulation.write(tmp_path / "field")
    assert [path.name for path in tmp_path.iterdir()] == ["field.fits"]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"sky": {"doubles": 3}}, r"sky.doubles: input should be less"),
        ({"plain": {"noise": 1}}, r"plain.noise: there is no such option"),
        ({"sky": {"counts": {"density": 3}}}, r"sky.counts: name a model"),
        ({"plain": {"rms": 1e-3}, "telescope": {}}, r"plain or the section telescope, not both"),
    ],
)
def test_wrong_options_are_named(mapping, message):
    with pytest.raises(ConfigurationError, match=message):
        FieldOptions.from_mapping(mapping)


def run(*arguments):
    with pytest.raises(SystemExit) as done:
        main(["simulate", *map(str, arguments)])
    return done.value.code


def test_command(tmp_path, capsys):
    options = ("--size", 128, "--seed", 3, "--noise", "beam", "--set", "sky.counts.model=power_law")
    assert run(tmp_path / "a", *options) == 0
    assert "sources in" in capsys.readouterr().out
    assert run(tmp_path / "b", "--config", tmp_path / "a.config.yaml", "--seed", 3) == 0
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    assert "autocorrelation: beam" in (tmp_path / "b.config.yaml").read_text()


def test_command_says_what_is_wrong(tmp_path, capsys):
    assert run(tmp_path / "a", "--set", "sky.stars=1") == 2
    assert "sky.stars: there is no such option" in capsys.readouterr().err
    assert run(tmp_path / "a", "--config", tmp_path / "none.yaml") == 2
    assert not list(tmp_path.iterdir())


def test_command_with_a_telescope(tmp_path):
    assert run(tmp_path / "t", "--size", 128, "--noise", "telescope") == 0
    data, rms = fits.getdata(tmp_path / "t.fits"), fits.getdata(tmp_path / "t.rms.fits")
    np.testing.assert_array_equal(np.isnan(data), np.isnan(rms))
    assert len(read_truth(tmp_path / "t")) > 0
