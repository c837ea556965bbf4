"""Images, detections and components made by hand, for tests of the catalogue."""

from dataclasses import fields, replace

import numpy as np

from cyclades.stages.cataloguing.components import ComponentsCatalogue
from cyclades.stages.core.beam import PointSpread
from cyclades.stages.core.context import Context
from cyclades.stages.core.image import SkyImage
from cyclades.stages.core.products import Background, Components, Detections, Segments


def make_components(rows, *, island=None, detection=None, covariance=None, **columns):
    """Components from rows (peak, x, y, sxx, sxy, syy); other columns have plain values."""
    rows = np.asarray(rows, float).reshape(-1, 6)
    n = len(rows)
    detection = np.arange(n) if detection is None else np.asarray(detection)
    if covariance is None:
        covariance = np.diag([0.02, 0.01, 0.012, 0.05, 0.03, 0.06]) ** 2
    values = {
        "detection": detection,
        "island": detection if island is None else np.asarray(island),
        **dict(zip(("peak", "x", "y", "sxx", "sxy", "syy"), rows.T.copy(), strict=True)),
        "total": rows[:, 0].copy(),
        "total_err": np.full(n, 0.03),
        "covariance": np.broadcast_to(covariance, (n, 6, 6)).copy(),
        "beam_flux": rows[:, 0].copy(),
        "beam_flux_err": np.full(n, 0.02),
        "resolved_probability": np.full(n, 0.5),
        "flags": np.zeros(n, np.int64),
        "chi2": np.full(n, 11.0),
        "degrees_of_freedom": np.full(n, 10.0),
        "residual_mean": np.full(n, 0.001),
        "residual_rms": np.full(n, 0.01),
        "n_pixels": np.full(n, 25),
        "fit_type": ("gaussian",) * n,
    }
    return Components(**(values | columns))


def make_detections(shape, pixels, *, parent=None, summit=None, **columns):
    """Detections from one list of (y, x) pixels a row."""
    pixels = [np.asarray(p, np.int64).reshape(-1, 2) for p in pixels]
    n = len(pixels)
    box = np.array([[*p[:, ::-1].min(0), *p[:, ::-1].max(0)] for p in pixels], float).reshape(-1, 4)
    middle = np.array([p[:, ::-1].mean(0) for p in pixels], float).reshape(-1, 2)
    values = {
        "shape": shape,
        "box": box,
        "score": np.linspace(0.5, 1.0, n),
        "parent": np.full(n, -1) if parent is None else np.asarray(parent),
        "segments": Segments.from_lists([p[:, 0] * shape[1] + p[:, 1] for p in pixels]),
        "summit": middle if summit is None else summit,
    }
    return Detections(**(values | columns))


def square(x, y, half=2):
    """Pixels (y, x) of a square around a position."""
    row, column = np.mgrid[
        round(y) - half : round(y) + half + 1, round(x) - half : round(x) + half + 1
    ]
    return np.stack([row.ravel(), column.ravel()], -1)


def make_background(image, level=0.0, rms=0.01):
    """Constant maps, blank where the image is."""
    blank = np.isnan(image.data)
    return Background(
        np.where(blank, np.nan, level).astype(np.float32),
        np.where(blank, np.nan, rms).astype(np.float32),
    )


def permute_components(components, order):
    """The same components in another order."""
    changes = {}
    for field in fields(components):
        value = getattr(components, field.name)
        if isinstance(value, np.ndarray):
            changes[field.name] = value[order]
        elif isinstance(value, tuple):
            changes[field.name] = tuple(value[i] for i in order)
    changes["extra"] = {k: v[order] for k, v in components.extra.items()}
    return replace(components, **changes)


def make_context():
    """A context that knows which stages ran."""
    context = Context()
    context.note("detected_by", "islands")
    context.note("measured_by", "gaussian")
    return context


def make_catalogue(n=4, *, sky=True, unit="Jy/beam"):
    """Catalogue of n components at whole-sky random places of a 200-pixel image.

    The first two share an island where there are two. The metadata have a nested configuration.
    """
    import astropy.units as u
    import radio_beam
    from astropy.wcs import WCS

    rng = np.random.default_rng(11)
    wcs, psf = None, PointSpread(np.array([[6.0, 1.0], [1.0, 4.0]]))
    if sky:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
        wcs.wcs.crval, wcs.wcs.crpix = [359.99, -30.0], [100.0, 100.0]
        wcs.wcs.cdelt = [-2 / 3600, 2 / 3600]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        beam = radio_beam.Beam(12 * u.arcsec, 8 * u.arcsec, 20 * u.deg)
        psf = PointSpread.from_beam(beam, wcs)
    data = rng.normal(0, 0.01, (200, 200)).astype(np.float32)
    image = SkyImage(data, u.Unit(unit), wcs, psf, frequency=1.4e9, name="field")
    rows = np.column_stack(
        [rng.uniform(1, 2, n), rng.uniform(10, 190, (n, 2)), np.tile([30.0, 4.0, 15.0], (n, 1))]
    )
    pixels = [square(x, y) for x, y in rows[:, 1:3]]
    island, detection = np.arange(n), np.arange(n)
    parent = np.full(n, -1)
    if n > 1:
        rows[1, 1:3] = rows[0, 1:3] + 3.0
        pixels = [np.unique(np.r_[pixels[0], square(*rows[1, 1:3])], axis=0), *pixels]
        island, detection = np.r_[0, 0, np.arange(3, n + 1)], np.arange(1, n + 1)
        parent = np.r_[-1, 0, 0, np.full(n - 2, -1)]
    components = make_components(
        rows,
        island=island,
        detection=detection,
        resolved_probability=rng.uniform(0, 1, n),
        extra={"kron_flux": rng.uniform(1, 2, n)},
    )
    catalogue = ComponentsCatalogue().build(
        image,
        make_background(image),
        make_detections(image.shape, pixels, parent=parent),
        components,
        context=make_context(),
    )
    catalogue.meta["configuration"] = {"detection": {"name": "islands", "seed_threshold": 5.0}}
    catalogue.meta["weights"] = ["sha256:0123", "sha256:4567"]
    return catalogue
