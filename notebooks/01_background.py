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
# # Background: what level, what noise
#
# Every threshold is a multiple of the local noise above the local level, so both maps decide what
# is found, how bright it is said to be and how large its error. Here all estimators see the same
# images: a simulated one, whose level and noise are known, and a real one.
#
# A notebook and a script, paired by jupytext.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from scipy.ndimage import distance_transform_edt

import cyclades
from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.panels import panels
from cyclades.pipeline.samples import write_magpis
from cyclades.pipeline.simulation.field import FieldOptions, simulate

# %% [markdown]
# ## The implementations
#
# `cyclades.list_stages()` names them, `cyclades stages NAME` prints the parameters of one. `none`
# and `maps` take what they are told. Those that need a network look for objects first, and run
# without torch where ONNX Runtime is installed; any that cannot run here is left out, and says
# why.

# %%
NAMES = [name for name in cyclades.list_stages()["background"] if name not in ("none", "maps")]


def estimates(image):
    """Run every background on an image; those that lack something here say so."""
    made = {}
    for name in NAMES:
        stage = cyclades.create_stage("background", name)
        try:
            with cyclades.Context() as context:
                made[name] = stage.estimate(image, context=context)
        except cyclades.CycladesError as error:
            print(f"{name}: left out. {error}")
    return made


# %% [markdown]
# ## Where the truth is known
#
# Many wide sources, noise that doubles within the field, a level that waves: what an
# interferometer leaves when short spacings are missing.

# %%
options = FieldOptions.from_mapping(
    {
        "size": 512,
        "sky": {
            "discs": 0.2, "doubles": 0.2, "bent": 0.1, "diffuse": 0.4, "galaxies": 0.1,
            "half_share_flux": 5e-6, "disc_size": [3.0, 20.0], "diffuse_size": [8.0, 30.0],
            "radio_galaxy_size": [4.0, 25.0],
        },
        "plain": {"rms": 5e-6, "level": 1.0},
    },
    name="notebook",
)  # fmt: skip
field = simulate(options, seed=11)
maps = estimates(field.image)
typical = float(np.median(field.rms))
panels({"image": field.image.data}, rms=typical, label="Jy / beam", side=4.5)
panels({"level": field.level / typical}, rms=1.0, limit=2.0, label="true level / rms", side=3.2)
plt.show()

# %% [markdown]
# The level of each minus the true one, in units of the noise. What is red has taken a part of a
# source for background, and the source's flux will miss it.

# %%
panels(
    {name: (found.level - field.level) / field.rms for name, found in maps.items()},
    rms=1.0, limit=2.0, label="(level - truth) / rms",
)  # fmt: skip
plt.show()

# %% [markdown]
# The noise of each over the true one, less one. Where it is red, faint sources are lost.

# %%
panels(
    {name: found.rms / field.rms - 1.0 for name, found in maps.items()},
    rms=1.0, limit=0.5, label="rms / truth - 1",
)  # fmt: skip
plt.show()

# %% [markdown]
# ## In numbers
#
# Mean errors by place, in percent of the true noise: on sources of more than six beam areas, within
# five beams of them, and elsewhere.

# %%
segments = field.truth.segments
beam = field.image.psf
wide = np.zeros(field.image.shape, bool)
for row in np.flatnonzero(segments.lengths > 6 * beam.area):
    wide.ravel()[segments[row]] = True
near = (distance_transform_edt(~wide) <= 5 * beam.size) & ~wide
places = {"on wide": wide, "beside": near, "elsewhere": ~wide & ~near}

rows = []
for name, found in maps.items():
    row = {"background": name}
    for place, where in places.items():
        level = (found.level - field.level)[where] / field.rms[where]
        rms = found.rms[where] / field.rms[where] - 1.0
        row[f"level, {place}"] = round(100 * float(level.mean()), 1)
        row[f"rms, {place}"] = round(100 * float(rms.mean()), 1)
    rows.append(row)
errors = Table(rows)
errors.pprint(max_width=-1)

# %% [markdown]
# ## What it does to the catalogue
#
# The rest of the chain is the same; the truth says what is found and what is not. `oracle` is given
# the true maps.

# %%
route = cyclades.Pipeline.from_route("classical")
with tempfile.TemporaryDirectory() as folder:
    field.write(Path(folder) / "field")
    oracle = {
        "name": "maps", "level": f"{folder}/field.level.fits", "rms": f"{folder}/field.rms.fits",
    }  # fmt: skip
    catalogues = {
        name: route.replace(background=stage).run(field.image).catalogue
        for name, stage in {**{name: name for name in maps}, "oracle": oracle}.items()
    }

# %%
comparison = compare(catalogues, field.truth, field.image)
summary = comparison.summary["catalogue", "completeness", "reliability", "f1"]
for column in summary.colnames[1:]:
    summary[column].info.format = ".3f"
summary.pprint(max_width=-1)

# %% [markdown]
# ## A real image
#
# MAGPIS, the Galactic plane at 20 cm: a nebula wider than any box, beside a faint sky. There is no
# truth. Look where the level follows the nebula: a local estimator cannot tell smooth emission
# from background, and what counts as one or the other is a choice. The larger its boxes (or the
# better it knows what a source looks like) the more of the nebula stays in the image.

# %%
with tempfile.TemporaryDirectory() as folder:
    try:
        real = cyclades.read_image(write_magpis(Path(folder))[0])
    except cyclades.CycladesError as error:
        print(f"left out: {error}")
        real = None

# %%
if real is not None:
    maps = estimates(real)
    middle = next(iter(maps.values()))
    rms, level = float(np.nanmedian(middle.rms)), float(np.nanmedian(middle.level))
    shown = {"image": real.data, **{name: found.level for name, found in maps.items()}}
    panels(shown, rms=rms, level=level, label="Jy / beam")
    plt.show()

# %%
if real is not None:
    shown = {f"{name}: signal": (real.data - m.level) / m.rms for name, m in maps.items()}
    panels(shown, rms=1.0, label="(image - level) / rms")
    plt.show()

# %% [markdown]
# ## What goes wrong, and where
#
# - *Boxes of the size of the sources*: the level climbs into wide sources (red in the first row of
#   differences). Make `box_beams` larger, mask with a network (`masked`), or bring maps.
# - *Boxes far larger than the scale on which the noise changes*: the noise is right on average and
#   wrong everywhere, as beside bright sources with artefacts.
# - *Crowded fields*: sources too faint to be found add to the noise; that is no error, for they
#   hinder the detection as noise does.
# - *Edges*: fewer pixels, so a noisier estimate. Look at the borders of the pictures.
#
# `cyclades run IMAGE --set background=sep --products background,rms` swaps it on your image;
# `tests/benchmarks/backgrounds.py` measures all on many fields ([figures](../docs/learned.md)).
