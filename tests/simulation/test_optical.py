"""Optical skies: profiles, counts, noise, truth, files."""

import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from astropy.io import fits
from scipy import special, stats

from cyclades.pipeline.cli import main
from cyclades.pipeline.simulation import profiles
from cyclades.pipeline.simulation.optical import (
    half_light,
    make_optical_field,
    photon_noise,
    simulate_optical,
)
from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.pipeline.simulation.optical_sky import (
    BANDS,
    BULGE,
    CLASSES,
    DISC,
    GALAXY,
    MARGIN,
    POINT,
    STAR,
    MagnitudeCounts,
    OpticalSky,
    OpticalSkyOptions,
    draw_optical_sky,
)
from cyclades.pipeline.simulation.stream import OpticalTileStream
from cyclades.pipeline.simulation.truth import read_truth
from cyclades.stages.core.errors import ConfigurationError
from tests.conftest import unavailable

EMPTY = OpticalSkyOptions(stars=MagnitudeCounts(density=0.0), galaxies=MagnitudeCounts(density=0.0))
STARS = OpticalSkyOptions(stars=MagnitudeCounts(density=6000.0))
SMALL = OpticalOptions(size=256, sky=STARS)
MIXTURES = [profiles.DELTA, profiles.sersic_mixture(1.0), profiles.sersic_mixture(4.0)]


@pytest.fixture(scope="module")
def simulation():
    return simulate_optical(SMALL, seed=4)


def sersic(radius, index):
    """Surface brightness of unit flux and unit half-light radius."""
    b = profiles.sersic_constant(index)
    total = 2 * np.pi * index * special.gamma(2 * index) * b ** (-2 * index)
    return np.exp(-b * radius ** (1 / index)) / total


def value(mixture, radius):
    parts = mixture.weight / (2 * np.pi * mixture.variance)
    return (parts * np.exp(-0.5 * radius[:, None] ** 2 / mixture.variance)).sum(1)


def draw(flux, shape, profile, *, size=129, fwhm=4.5, beta=3.5, rms=1e-5):
    """Image of one element in the middle of a plane of odd size, a quarter pixel off."""
    star = profiles.moffat_mixture(beta)
    rows, limits = profiles.stack(MIXTURES)
    plane = np.zeros((size, size), np.float32)
    place = size // 2 + 0.25
    drawn = profiles.draw_profiles(
        plane,
        np.array([[flux, place, place, *shape]], float),
        np.array([profile]),
        np.array([0, 1]),
        rows,
        limits,
        np.column_stack([star.weight, star.variance * fwhm**2]),
        np.full_like(plane, rms),
        profiles.FAINTEST * rms,
    )
    return plane, drawn


@pytest.mark.parametrize("index", [1.0, 2.0, 4.0])
def test_sersic_mixtures(index):
    mixture = profiles.sersic_mixture(index)
    radius = np.geomspace(0.05, 2.0, 60)
    np.testing.assert_allclose(value(mixture, radius), sersic(radius, index), rtol=1.5e-3)
    assert mixture.weight.sum() == pytest.approx(1.0, abs=1e-7)
    inside = np.sum(mixture.weight * -np.expm1(-0.5 / mixture.variance))
    assert inside == pytest.approx(0.5, abs=3e-4)


@pytest.mark.parametrize("beta", [2.0, 3.5, 5.0])
def test_moffat_mixtures(beta):
    mixture = profiles.moffat_mixture(beta)
    radius = np.linspace(0.0, 1.0, 40)
    a2 = 0.25 / (2 ** (1 / beta) - 1)
    expected = (beta - 1) / (np.pi * a2) * (1 + radius**2 / a2) ** -beta
    np.testing.assert_allclose(value(mixture, radius), expected, rtol=2.5e-3)


def test_profiles_without_a_mixture_are_refused():
    with pytest.raises(ValueError, match="index 1 and above"):
        profiles.sersic_mixture(0.7)
    with pytest.raises(ValueError, match="no finite flux"):
        profiles.moffat_mixture(1.0)


def test_a_disc_is_convolved_with_the_star():
    """Against a sum over fine pixels, without any mixture."""
    fwhm, beta, scale = 4.5, 3.5, 3.0
    plane, _ = draw(1.0, (scale**2, 0.0, scale**2), DISC, size=65)
    step = 0.125
    grid = np.arange(-24, 24, step) + step / 2
    disc = sersic(np.hypot(grid, grid[:, None]) / scale, 1.0) / scale**2 * step**2
    a2 = fwhm**2 * 0.25 / (2 ** (1 / beta) - 1)
    for x, y in ((0, 0), (3, 0), (0, 7), (-6, 5)):
        square = (x - 0.25 - grid) ** 2 + (y - 0.25 - grid[:, None]) ** 2
        star = (beta - 1) / (np.pi * a2) * (1 + square / a2) ** -beta
        assert plane[32 + y, 32 + x] == pytest.approx(np.sum(disc * star), rel=3e-3)


@pytest.mark.parametrize(
    ("profile", "axes"),
    [(POINT, (0, 0)), (DISC, (4.0, 1.5)), (BULGE, (4.0, 2.4)), (BULGE, (1.2, 1.0))],
)
def test_profiles_agree_with_galsim(profile, axes):
    try:
        import galsim
    except ModuleNotFoundError:
        unavailable("galsim", "the package galsim is not installed")
    major, minor = axes
    angle = 0.6
    cos, sin = np.cos(angle), np.sin(angle)
    a2, b2 = major**2, minor**2
    shape = (a2 * cos**2 + b2 * sin**2, (a2 - b2) * sin * cos, a2 * sin**2 + b2 * cos**2)
    plane, _ = draw(1000.0, shape, profile)
    star = galsim.Moffat(beta=3.5, fwhm=4.5)
    parameters = galsim.GSParams(maximum_fft_size=16384, folding_threshold=1e-3)
    if profile == POINT:
        whole = star
    else:
        kind = galsim.Exponential if profile == DISC else galsim.DeVaucouleurs
        galaxy = kind(half_light_radius=np.sqrt(major * minor))
        galaxy = galaxy.shear(q=minor / major, beta=angle * galsim.radians)
        whole = galsim.Convolve([galaxy, star], gsparams=parameters)
    expected = (
        (whole * 1000.0)
        .shift(0.25, 0.25)
        .drawImage(nx=129, ny=129, scale=1.0, method="no_pixel", dtype=float)
        .array
    )
    assert np.abs(plane - expected).max() < 3e-3 * expected.max()
    bright = expected > 0.05 * expected.max()
    np.testing.assert_allclose(plane[bright], expected[bright], rtol=6e-3)


@pytest.mark.parametrize(("profile", "size"), [(POINT, 0.0), (DISC, 3.0), (BULGE, 3.0)])
def test_the_light_is_in_the_pixels(profile, size):
    # about 3 and 600 times the noise; what is missing of the fainter are wings of bulges
    for flux, tolerance in ((40.0, 0.06), (8000.0, 0.004)):
        plane, (_, _, peak, pixel) = draw(flux, (size**2, 0.0, size**2), profile, size=401, rms=1.0)
        assert plane.sum(dtype=float) == pytest.approx(flux, rel=tolerance)
        assert peak[0] == plane.max()
        assert pixel[0] == plane.argmax()


def test_masks_are_what_exceeds_the_noise_or_half_of_the_peak():
    for flux in (20.0, 8000.0):
        plane, (indices, offsets, peak, _) = draw(flux, (4.0, 1.0, 2.0), DISC, rms=1.0)
        np.testing.assert_array_equal(offsets, [0, len(indices)])
        expected = np.flatnonzero(plane.ravel() > min(1.0, 0.5 * peak[0]))
        np.testing.assert_array_equal(np.sort(indices), expected)


def test_photon_noise_follows_poisson():
    n = 400_000
    for mean in (100.0, 2000.0):
        counts = photon_noise(np.full(n, mean), np.random.default_rng(1))
        assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / n))
        assert counts.var() == pytest.approx(mean, rel=1 / (18 * mean) + 4 * np.sqrt(2 / n))
        assert stats.skew(counts) == pytest.approx(mean**-0.5, abs=4 * np.sqrt(6 / n))
        share = stats.norm.cdf([-3, -1, 0, 1, 3])
        # half a count, since the Poisson law jumps; and the quantiles' own errors
        expected = stats.poisson.ppf(share, mean)
        density = stats.norm.pdf([-3, -1, 0, 1, 3]) / np.sqrt(mean)
        error = np.sqrt(share * (1 - share) / n) / density
        assert np.all(np.abs(np.quantile(counts, share) - expected) < 0.8 + 4 * error)


def test_noise_without_sources():
    options = OpticalOptions(size=512, sky=EMPTY, level=2.0)
    _, exposures = make_optical_field(options, np.random.SeedSequence(2))
    for band, seen in exposures.items():
        noise = (seen.data - seen.level) / seen.rms
        assert noise.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * noise.size))
        assert noise.mean() == pytest.approx(0.0, abs=4 / np.sqrt(noise.size))
        neighbours = np.mean(noise[:, 1:] * noise[:, :-1])
        assert neighbours == pytest.approx(0.0, abs=4 / np.sqrt(noise.size))
        assert np.median(seen.rms) == pytest.approx(options.rms(band), rel=1e-3)
        assert np.ptp(seen.level) > 2.0 * options.rms(band)
        assert not len(seen.objects)


def test_bright_sources_have_photon_noise():
    stars = MagnitudeCounts(density=3e4, slope=0.2, brightest=15.0)
    options = OpticalOptions(size=512, sky=OpticalSkyOptions(stars=stars))
    _, exposures = make_optical_field(options, np.random.SeedSequence(3))
    seen, scale = exposures["r"], options.electrons("r")
    bright = seen.clean > 100 * seen.rms
    variance = seen.rms[bright] ** 2 + seen.clean[bright] / scale
    pull = (seen.data - seen.level - seen.clean)[bright] / np.sqrt(variance)
    assert bright.sum() > 1000
    assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * bright.sum()))


def test_the_depth_is_that_of_the_survey():
    # 5 sigma for a round galaxy of 0.45 arcsec: 24.0, 23.4, 22.5 (legacysurvey.org/decamls)
    options = OpticalOptions()
    for band, depth in zip(BANDS, (24.0, 23.4, 22.5), strict=True):
        width = options.band(band).seeing / options.pixel
        shape = (0.45 / options.pixel) ** 2
        # the image of a unit flux gives the pixels that count, for white noise
        plane, _ = draw(1.0, (shape, 0.0, shape), DISC, fwhm=width, rms=1e-6)
        flux = 5 * options.rms(band) / np.sqrt(np.sum(plane.astype(float) ** 2))
        assert 31.4 - 2.5 * np.log10(flux) == pytest.approx(depth, abs=0.35)


def test_counts():
    options = OpticalSkyOptions(blends=0.0)
    size, pixel = 4096, 0.262
    sky = draw_optical_sky(options, (size, size), pixel, np.random.default_rng(0))
    side = size + 2 * np.ceil(MARGIN / pixel)
    area = (side * pixel / 3600) ** 2
    magnitude = 31.4 - 2.5 * np.log10(sky.object_flux("r"))
    for kind, counts in ((STAR, options.stars), (GALAXY, options.galaxies)):
        mine = magnitude[sky.object_class == kind]
        for low, high in ((15, 21), (21, 24), (24, 25.5)):
            expected = area * (counts.number(high) - counts.number(low))
            found = np.count_nonzero((mine >= low) & (mine < high))
            assert abs(found - expected) < 4 * np.sqrt(expected)
    assert options.stars.number(10.0) == 0.0


def test_galaxies_shrink_with_magnitude_and_members_of_clusters_are_red():
    def drawn(**changes):
        options = OpticalSkyOptions(blends=0.0, **changes)
        return draw_optical_sky(options, (1024, 1024), 0.262, np.random.default_rng(5))

    field = drawn()
    galaxies = np.flatnonzero(field.object_class == GALAXY)
    radius = np.linalg.det(half_light(field, galaxies, "r", MIXTURES)) ** 0.25 * 0.262
    magnitude = 31.4 - 2.5 * np.log10(field.object_flux("r")[galaxies])
    bright, faint = radius[magnitude < 22], radius[magnitude > 24.5]
    assert 0.5 < np.median(bright) < 1.6
    assert 0.2 < np.median(faint) < 0.45
    crowded = drawn(clusters=1, cluster_members=300.0)
    extra = len(crowded) - len(field)
    assert abs(extra - 301) < 4 * np.sqrt(300)
    colour = -2.5 * np.log10(crowded.object_flux("g") / crowded.object_flux("r"))
    assert np.std(colour[-extra:]) == pytest.approx(0.04, rel=4 / np.sqrt(2 * extra))
    places = np.stack([crowded.x, crowded.y], -1)[-extra:]
    distance = np.hypot(*(places - np.median(places, 0)).T)
    # half of the members are inside sqrt(101) = 10 core radii, the root of the limit
    assert np.median(distance) * 0.262 == pytest.approx(3.0 * 25.0, rel=0.3)


def test_half_of_the_light():
    shape = np.array([[9.0, 0.0, 9.0], [1.0, 0.0, 1.0]] * 3)
    flux = np.array([0.7, 0.3, 1.0, 0.0, 0.0, 1.0])
    sky = OpticalSky(
        x=np.zeros(3),
        y=np.zeros(3),
        object_class=np.full(3, GALAXY),
        starts=np.array([0, 2, 4, 6]),
        profile=np.array([DISC, BULGE] * 3),
        flux=np.stack([flux] * 3),
        shape=shape,
    )
    matrices = half_light(sky, np.arange(3), "r", MIXTURES)
    radius = np.sqrt(matrices[:, 0, 0])
    np.testing.assert_allclose(radius[1:], [3.0, 1.0], rtol=1e-3)

    def inside(r, size, index):
        b = profiles.sersic_constant(index)
        return special.gammainc(2 * index, b * (r / size) ** (1 / index))

    enclosed = 0.7 * inside(radius[0], 3.0, 1.0) + 0.3 * inside(radius[0], 1.0, 4.0)
    assert enclosed == pytest.approx(0.5, abs=5e-4)


def test_same_seed_same_bytes(simulation):
    again, other = simulate_optical(SMALL, seed=4), simulate_optical(SMALL, seed=5)
    for band in BANDS:
        np.testing.assert_array_equal(again.images[band].data, simulation.images[band].data)
        assert again.truths[band].catalogue == simulation.truths[band].catalogue
        assert not np.array_equal(other.images[band].data, simulation.images[band].data)


def test_other_processors_make_the_same_field(simulation, tmp_path):
    dispatched = " ".join(np._core._multiarray_umath.__cpu_dispatch__)
    code = (
        "import sys, numpy as np\n"
        "from cyclades.pipeline.simulation.optical import simulate_optical\n"
        "from cyclades.pipeline.simulation.optical_options import OpticalOptions\n"
        "made = simulate_optical(OpticalOptions.from_mapping({'size': 256, 'sky': {'stars':"
        " {'density': 6000.0}}}), seed=4)\n"
        "np.savez(sys.argv[1], x=made.sky.x, flux=made.sky.flux, shape=made.sky.shape,"
        " **{band: image.data for band, image in made.images.items()})"
    )
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "other.npz"],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": dispatched},
    )
    other = np.load(tmp_path / "other.npz")
    for name in ("x", "flux", "shape"):
        np.testing.assert_array_equal(other[name], getattr(simulation.sky, name))
    for band, image in simulation.images.items():
        difference = np.abs(other[band] - image.data)
        rms = simulation.backgrounds[band].rms
        assert np.all(difference <= np.maximum(1e-5 * rms, np.spacing(np.abs(image.data))))


def test_seeing_and_noise_do_not_move_the_sources(simulation):
    other = SMALL.model_copy(update={"g": SMALL.g.model_copy(update={"seeing": 2.0})})
    made = simulate_optical(other, seed=4)
    np.testing.assert_array_equal(made.sky.x, simulation.sky.x)
    np.testing.assert_array_equal(made.images["r"].data, simulation.images["r"].data)
    assert not np.array_equal(made.images["g"].data, simulation.images["g"].data)


def test_truth(simulation):
    sky, truth = simulation.sky, simulation.truth
    assert truth.names == CLASSES
    assert set(truth.morphology) == set(CLASSES)
    components = truth.catalogue.components
    number = np.asarray(components["object"])
    row = np.asarray(components["source_id"]) - 1
    np.testing.assert_array_equal(truth.classes[row], sky.object_class[number])
    np.testing.assert_array_equal(np.asarray(components["morphology"]), truth.morphology[row])
    np.testing.assert_allclose(
        components["total_flux"].to_value("nJy"), sky.object_flux("r")[number], rtol=1e-6
    )
    for band in BANDS:
        np.testing.assert_allclose(
            components[f"total_flux_{band}"].to_value("nJy"),
            sky.object_flux(band)[number],
            rtol=1e-6,
        )
    np.testing.assert_allclose(components["x"].to_value("pix"), sky.x[number])
    # a star of more than the noise is always in the truth
    inside = (np.abs(sky.x - 127.5) < 125) & (np.abs(sky.y - 127.5) < 125)
    rms = simulation.backgrounds["r"].rms.max()
    bright = inside & (sky.object_class == STAR) & (sky.object_flux("r") > 40 * rms)
    assert bright.sum() > 3
    assert set(np.flatnonzero(bright)) <= set(number)


def test_shapes_of_the_truth(simulation):
    components = simulation.truth.catalogue.components
    number = np.asarray(components["object"])
    star = simulation.sky.object_class[number] == STAR
    seeing = SMALL.r.seeing
    np.testing.assert_allclose(components["major"][star].to_value("arcsec"), seeing, rtol=1e-4)
    assert not np.asarray(components["resolved"])[star].any()
    ellipse = half_light(simulation.sky, number[~star], "r", MIXTURES)
    radius = np.sqrt(np.linalg.eigvalsh(ellipse)[:, 1]) * SMALL.pixel
    deconvolved = components["deconvolved_major"][~star].to_value("arcsec")
    np.testing.assert_allclose(deconvolved, 2 * radius, rtol=2e-3)


def test_one_object_in_several_bands(simulation):
    objects = {
        band: set(np.asarray(truth.catalogue.components["object"]))
        for band, truth in simulation.truths.items()
    }
    assert len(objects["g"] & objects["r"]) > 10
    assert objects["g"] != objects["r"]


def test_saturation():
    stars = MagnitudeCounts(density=3e4, slope=0.2, brightest=14.0)
    options = OpticalOptions(size=128, sky=OpticalSkyOptions(stars=stars), saturate=True)
    _, exposures = make_optical_field(options, np.random.SeedSequence(3))
    seen = exposures["r"]
    highest = (2 * options.full_well - options.sky_electrons("r")) / options.electrons("r")
    assert seen.clean.max() > 2 * highest
    assert seen.data.max() == pytest.approx(highest, rel=1e-6)


def test_tiles():
    stream = OpticalTileStream(size=64, seed=3, tiles_a_side=2)
    alone = list(islice(stream, 8))
    shared = [t for worker in range(2) for t in islice(stream.shard(worker, 2), 4)]
    assert sorted(tile.index for tile in shared) == list(range(8))
    for tile in shared:
        np.testing.assert_array_equal(tile.image, alone[tile.index].image)
        np.testing.assert_array_equal(tile.boxes, alone[tile.index].boxes)
    assert alone[0].image.shape == alone[0].rms.shape == (3, 64, 64)
    for tile in alone:
        peaks = [(tile.image - tile.level)[1].ravel()[pixels].max() for pixels in
                 map(tile.segments.__getitem__, range(len(tile.segments)))]  # fmt: skip
        strong = (tile.snr > 12) & (tile.inside == 1)
        assert np.all(np.array(peaks)[strong] > 0.6 * (tile.snr * tile.rms[1].mean())[strong])
    with pytest.raises(ConfigurationError, match="positive size"):
        OpticalTileStream(size=64, tiles_a_side=0)


def test_files_round_trip(simulation, tmp_path):
    files = simulation.write(tmp_path / "field")
    assert [file.name for file in files[:3]] == ["field.r.fits", "field.z.fits", "field.g.fits"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in files)
    np.testing.assert_array_equal(fits.getdata(files[0]), simulation.images["r"].data)
    header = fits.getheader(files[0])
    assert (header["FILTER"], header["BUNIT"]) == ("r", "nJy/pix")
    truth = read_truth(files[0])
    assert truth.names == CLASSES
    np.testing.assert_array_equal(truth.morphology, simulation.truth.morphology)
    assert truth.catalogue.meta["image"] == "field.r"
    back = OpticalOptions.from_mapping(OpticalOptions.read_mapping(tmp_path / "field.config.yaml"))
    assert back == SMALL


def run(*arguments):
    with pytest.raises(SystemExit) as done:
        main(list(map(str, arguments)))
    return done.value.code


def test_command(tmp_path, capsys):
    options = ("--kind", "optical", "--seed", 2)
    assert run("simulate", tmp_path / "a", *options, "--size", 96, "--set", "r.seeing=1.5") == 0
    assert "a.r.fits" in capsys.readouterr().out
    assert run("simulate", tmp_path / "b", *options, "--config", tmp_path / "a.config.yaml") == 0
    for band in BANDS:
        one, two = (tmp_path / f"{name}.{band}.fits" for name in "ab")
        assert one.read_bytes() == two.read_bytes()
    assert fits.getheader(tmp_path / "a.r.fits")["BMAJ"] == pytest.approx(1.5 / 3600)
    assert run("simulate", tmp_path / "c", *options, "--noise", "beam") == 2
    assert "--noise is for radio images" in capsys.readouterr().err
    assert run("simulate", tmp_path / "c", *options, "--set", "sky.faintest=12") == 2
    assert "faintest must be fainter" in capsys.readouterr().err


def test_the_optical_route_finds_them():
    from cyclades.pipeline.chain import Pipeline

    made = simulate_optical(OpticalOptions(size=512), seed=6)
    route = Pipeline.from_route("classical").replace(detection="sep", characterization="moments")
    found = route.run(made.images["r"]).catalogue.components
    true = made.truth.catalogue.components
    inside = np.all(
        [np.abs(true[name].to_value("pix") - 255.5) < 250 for name in ("x", "y")], axis=0
    )
    bright = np.flatnonzero((np.asarray(true["snr"]) > 8) & inside)
    dx, dy = (
        np.subtract.outer(true[name][bright].to_value("pix"), found[name].to_value("pix"))
        for name in ("x", "y")
    )
    distance = np.hypot(dx, dy)
    assert len(bright) > 10
    assert np.mean(distance.min(1) < 2.0) > 0.85
    match = distance.argmin(1)
    stars = (np.asarray(true["morphology"])[bright] == "star") & (distance.min(1) < 0.5)
    stars &= np.asarray(true["snr"])[bright] > 30
    ratio = found["peak_flux"].to_value("nJy/pix")[match] / true["peak_flux"][bright].to_value(
        "nJy/pix"
    )
    assert np.median(ratio[stars]) == pytest.approx(1.0, abs=0.05)
