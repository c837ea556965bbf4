# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Optical images: stars, galaxies, and pairs of them
#
# The same chain on three bands at once. A classical detection combines the planes into one and
# cuts it at a threshold; a network takes the planes as channels, and says star or galaxy. Both
# see a simulated field as the Dark Energy Camera makes it, where the truth is known.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from astropy.visualization import make_lupton_rgb

import cyclades
from cyclades.pipeline.comparison.pairs import close_pairs, light_centres, told_apart
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.panels import draw_segments
from cyclades.pipeline.simulation.optical import simulate_optical
from cyclades.pipeline.simulation.optical_options import OpticalOptions
from cyclades.stages.core.combination import measured_plane

STAR, GALAXY = "#ffd24a", "#4ad2ff"

# %% [markdown]
# ## A field
#
# g, r and z with the depth and the seeing of the DECam Legacy Survey; a cluster of galaxies,
# twice the stars of high galactic latitudes, and two objects of five beside another.

# %%
options = OpticalOptions.from_mapping(
    {"size": 512, "sky": {"clusters": 1, "blends": 0.4, "stars": {"density": 3400}}},
    name="notebook",
)
field = simulate_optical(options, seed=11)


def colour(images, backgrounds, depth=6.0):
    """Red, green and blue of z, r and g in units of their noise, in an asinh stretch."""
    planes = [
        (images[band].data - backgrounds[band].level) / np.nanmedian(backgrounds[band].rms) * weight
        for band, weight in zip("zrg", (1.6, 1.0, 0.9), strict=True)
    ]
    return make_lupton_rgb(*np.nan_to_num(planes), minimum=0.3, stretch=depth, Q=8.0)


def draw(axes, picture, title):
    """Show a picture in pixel coordinates."""
    axes.imshow(picture, origin="lower", interpolation="nearest")
    axes.set(title=title, xticks=[], yticks=[], xlim=(0, picture.shape[1] - 1),
             ylim=(0, picture.shape[0] - 1))  # fmt: skip


picture = colour(field.images, field.backgrounds)
figure, axes = plt.subplots(figsize=(8.0, 8.0), layout="constrained")
draw(axes, picture, f"{len(field.truth)} objects, most of them near the noise")
plt.show()

# %% [markdown]
# ## Two detections
#
# The classical one filters each plane with its own point-spread function, adds the planes up by
# their signal to noise, and looks for pixels above a threshold; it tells blends apart by the
# saddles between their peaks (the detection of the route `optical`). The network is a Mask R-CNN;
# it was trained on other fields of the same simulation.

# %%
estimator = RouteConfig.from_route("optical").background


def detections(images, background_stage):
    """Run both on a set of images; also return the maps and the mean plane."""
    classical = RouteConfig.from_route("optical").detection
    learned = cyclades.create_stage("detection", "mask_rcnn", weights="optical_mask_rcnn")
    with cyclades.Context() as context:
        maps = {b: background_stage.estimate(one, context=context) for b, one in images.items()}
        found = {
            "classical": classical.detect_planes(images, maps, "weighted", context=context),
            "learned": learned.detect_planes(images, maps, "weighted", context=context),
        }
    return found, maps, measured_plane(images, maps, "weighted")


found, maps, (mean, level) = detections(field.images, estimator)


def rows_of(one, label):
    """Rows of the likeliest class."""
    return np.flatnonzero(np.array(one.classes)[one.class_probabilities.argmax(1)] == label)


def outline(axes, one):
    """Draw masks; those of stars and galaxies in their colours where classes are known."""
    colours = {"white": np.arange(len(one.box))}
    if one.class_probabilities is not None:
        colours = {STAR: rows_of(one, "star"), GALAXY: rows_of(one, "galaxy")}
    for shade, rows in colours.items():
        shapes = cyclades.Detections(
            one.shape,
            one.box[rows],
            one.score[rows],
            np.full(len(rows), -1),
            segments=one.segments.take(rows),
            summit=np.full((len(rows), 2), np.nan),
        )
        draw_segments(axes, shapes, shade)


figure, axes = plt.subplots(1, 2, figsize=(13.0, 6.7), layout="constrained")
for ax, (name, one) in zip(axes, found.items(), strict=True):
    draw(ax, picture, f"{name}: {len(one.box)}")
    outline(ax, one)
axes[1].plot([], [], color=STAR, label="star")
axes[1].plot([], [], color=GALAXY, label="galaxy")
axes[1].legend(loc="upper right")
plt.show()

# %% [markdown]
# ## Stars against galaxies
#
# Every true object takes the nearest detection within half the seeing. How often is the class
# right?

# %%
true = field.truth.catalogue.components
places = np.stack([true["x"].value, true["y"].value], -1)
width = options.r.seeing / options.pixel
# signal to noise of the total flux in r, within the object's own size
area = np.pi / (4 * np.log(2)) * np.asarray(true["major"] * true["minor"]) / options.pixel**2
snr = np.asarray(true["total_flux"]) / (options.rms("r") * np.sqrt(2.0 * area))
kind = np.asarray(true["morphology"]).astype(str)
# of objects beyond the edges only the wings are in the image
inside = ((places > 3) & (places < options.size - 4)).all(1)


def nearest(one):
    """Row of each true object's detection, and whether it is near enough."""
    centres = light_centres(one, mean.data - level.level)
    distance = np.hypot(*(places[:, None] - centres[None]).transpose(2, 0, 1))
    return distance.argmin(1), distance.min(1) < 0.5 * width


row, seen = nearest(found["learned"])
classical_seen = nearest(found["classical"])[1]
galaxy = found["learned"].class_probabilities[:, found["learned"].classes.index("galaxy")]
called = np.where(galaxy[row] > 0.5, "galaxy", "star")
table = Table(
    names=("S/N", "class", "objects", "classical finds", "learned finds", "class right"),
    dtype=("U12", "U8", "i4", "f4", "f4", "f4"),
)
for low, high in ((10, 20), (20, 50), (50, 1e9)):
    for label in ("star", "galaxy"):
        chosen = inside & (snr >= low) & (snr < high) & (kind == label)
        if chosen.any():
            table.add_row(
                (f"{low} to {high}" if high < 1e9 else f"from {low}", label, chosen.sum(),
                 classical_seen[chosen].mean(), seen[chosen].mean(),
                 (called == kind)[chosen & seen].mean())
            )  # fmt: skip
for name in table.colnames[3:]:
    table[name].info.format = ".2f"
table.pprint(max_width=-1)

# %% [markdown]
# What the network has to go by: stars are as wide as the seeing, whatever their flux, and have
# the colours of stars. True widths of what it found, in the colour of what it said; circles are
# stars.

# %%
size = np.sqrt(np.asarray(true["major"] * true["minor"]))
figure, axes = plt.subplots(1, 2, figsize=(11.0, 4.6), layout="constrained")
bands = {b: np.asarray(true[f"total_flux_{b}"]) for b in "grz"}
blue, red = (-2.5 * np.log10(bands[a] / bands[b]) for a, b in ("gr", "rz"))
for label, marker in (("star", "o"), ("galaxy", "^")):
    for said, shade in (("star", "#d89a00"), ("galaxy", "#0088cc")):
        chosen = seen & (snr > 10) & (kind == label) & (called == said)
        style = {"marker": marker, "color": shade, "s": 26, "alpha": 0.75}
        axes[0].scatter(snr[chosen], size[chosen], label=f"{label}, called {said}", **style)
        axes[1].scatter(blue[chosen], red[chosen], **style)
axes[0].axhline(options.r.seeing, color="grey", lw=0.8)
axes[0].set(xscale="log", xlabel="S/N of the total flux in r", ylabel="FWHM, arcsec")
axes[0].legend(fontsize=8)
axes[1].set(xlabel="g - r", ylabel="r - z")
plt.show()

# %% [markdown]
# ## Pairs
#
# Two objects of like brightness beside each other. They are told apart where each has a detection
# of its own. The closest pairs of the field, and some that are wider:

# %%
pairs = close_pairs(places, snr, 3.0 * width, 5.0, 2.0 * width)
bright = (snr[pairs.rows].min(1) > 20) & inside[pairs.rows].all(1)
pairs = pairs._replace(rows=pairs.rows[bright], separation=pairs.separation[bright])
apart = {
    name: told_apart(pairs, places, light_centres(one, mean.data - level.level), width)
    for name, one in found.items()
}
order = np.argsort(pairs.separation)
shown = order[np.unique(np.linspace(0, len(order) - 1, min(6, len(order))).astype(int))]
figure, axes = plt.subplots(
    2, len(shown), figsize=(2.1 * len(shown), 4.8), layout="constrained", squeeze=False
)
for column, k in enumerate(shown):
    x, y = places[pairs.rows[k]].mean(0)
    for ax, (name, one) in zip(axes[:, column], found.items(), strict=True):
        word = "two" if apart[name][k] else "not two"
        draw(ax, picture, f"{name}: {word}\n{pairs.separation[k] / width:.1f} FWHM")
        ax.title.set_fontsize(8)
        outline(ax, one)
        ax.plot(*places[pairs.rows[k]].T, "+", color="#ff40ff", ms=9)
        ax.set(xlim=(x - 16, x + 16), ylim=(y - 16, y + 16))
plt.show()
print(
    f"{len(pairs.rows)} pairs; told apart by "
    + ", ".join(f"{name} {good.sum()}" for name, good in apart.items())
)

# %% [markdown]
# ## A real field
#
# A cut-out of the DECam Legacy Survey near the cluster Abell 1689. There is no truth; look
# whether outlines and colours make sense to you.

# %%
folder = Path(os.environ.get("CYCLADES_DATA", "")) / "decam-optical"
files = {band: folder / f"burke_set0_{band}.fits" for band in "grz"}
real = None
if os.environ.get("CYCLADES_DATA") and all(file.is_file() for file in files.values()):
    real = {band: cyclades.read_image(file, beam="stars") for band, file in files.items()}
else:
    print("left out: the environment variable CYCLADES_DATA names no folder with decam-optical.")

# %%
if real is not None:
    on_sky, own_maps, _ = detections(real, estimator)
    sky = colour(real, own_maps)
    figure, axes = plt.subplots(1, 2, figsize=(13.0, 6.7), layout="constrained")
    for ax, (name, one) in zip(axes, on_sky.items(), strict=True):
        draw(ax, sky, f"{name}: {len(one.box)}")
        outline(ax, one)
    plt.show()
    seeing = {b: one.psf.size * np.sqrt(abs(np.linalg.det(one.wcs.pixel_scale_matrix))) * 3600
              for b, one in real.items()}  # fmt: skip
    print("seeing, arcsec:", {band: round(float(value), 2) for band, value in seeing.items()})
    number = {label: len(rows_of(on_sky["learned"], label)) for label in ("star", "galaxy")}
    print("the network says:", number)

# %% [markdown]
# ## What goes wrong, and where
#
# - *Faint objects*: below a signal to noise of ten stars and galaxies look alike; the network was
#   not asked about them.
# - *Close pairs*: what lies nearer than the seeing is one peak. A network may still give two
#   masks, or one.
# - *Another camera*: the network knows pixels of 0.262 arcsec, the seeing of one survey, and
#   noise that is independent from pixel to pixel. Other seeing is resampled to what it knows;
#   trails, ghosts and saturated stars it has never seen.
# - *Wide galaxies*: with several planes the image is not looked at again in a shrunk form, so
#   that galaxies of more than about 128 pixels may come in pieces.
#
# `cyclades run g=a.fits r=b.fits z=c.fits --route optical --set detection=mask_rcnn --set
# detection.weights=optical_mask_rcnn --set 'cataloguing=[components]'` makes the catalogue, with
# fluxes in every band; see [optical images](../docs/optical.md) and
# [the network](../docs/optical_learned.md).
