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
# # Detection: what is a source, and which pixels are its own
#
# A detector says where something is. Classical ones look for pixels above a threshold; networks
# learned what sources look like, and give boxes or masks with a probability. Here all see the same
# image above the same background, so that what differs is the detection alone.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table

import cyclades
from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.panels import draw_segments, panels
from cyclades.pipeline.samples import write_magpis
from cyclades.pipeline.simulation.field import FieldOptions, simulate
from cyclades.stages.core.segments import complete_detections


def tell(table, *columns):
    """Print some columns of a table, numbers with three digits."""
    for name in columns:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".3f"
    table[list(columns)].pprint(max_width=-1, max_lines=-1)


# %% [markdown]
# ## The implementations
#
# Those that come with trained weights run here through ONNX Runtime, without torch. The others
# (`cyclades stages` lists them all) need weights that you train, and are left out.

# %%
CLASSICAL, SHIPPED = ("islands", "sep", "photutils"), ("yolo", "mask_rcnn")
known = cyclades.list_stages()["detection"]
print("left out:", ", ".join(name for name in known if name not in CLASSICAL + SHIPPED))


def detections(image, background):
    """Run every detector; pixels and summits that one does not give are added as the chain does."""
    made = {}
    for name in CLASSICAL + SHIPPED:
        try:
            with cyclades.Context() as context:
                found = cyclades.create_stage("detection", name).detect(
                    image, background, context=context
                )
                if not found.complete:
                    found = complete_detections(image, background, found, context=context)
        except cyclades.CycladesError as error:
            print(f"{name}: left out. {error}")
            continue
        made[name] = found
    return made


# %% [markdown]
# ## Where the truth is known
#
# Points, galaxies, doubles, bent and diffuse sources on noise.

# %%
options = FieldOptions.from_mapping(
    {
        "size": 512,
        "sky": {"half_share_flux": 5e-5, "doubles": 0.25, "bent": 0.15, "diffuse": 0.1},
        "plain": {"rms": 1.5e-5, "level": 0.0},
    },
    name="notebook",
)
field = simulate(options, seed=3)
with cyclades.Context() as context:
    background = cyclades.create_stage("background", "grid").estimate(field.image, context=context)
found = detections(field.image, background)
Table(
    [
        {
            "detection": name,
            "islands": len(one.islands),
            "component candidates": len(one.leaves),
            "pixels": int(one.segments.take(one.islands).lengths.sum()),
        }
        for name, one in found.items()
    ]
).pprint(max_width=-1)

# %% [markdown]
# Outlines of the component candidates with their summits. First the truth above a signal to noise
# of 5: where the source's own image exceeds the noise.

# %%
rms = float(np.median(background.rms))
shown = dict.fromkeys(("truth", *found), field.image.data)
figure, axes = panels(shown, rms=rms, columns=3, side=4.0, label="Jy / beam")
rows = np.flatnonzero(field.truth.catalogue.sources["snr"] >= 5.0)
true = cyclades.Detections(
    field.truth.shape,
    field.truth.boxes[rows],
    np.ones(len(rows)),
    np.full(len(rows), -1),
    segments=field.truth.segments.take(rows),
    summit=np.full((len(rows), 2), np.nan),
)
draw_segments(axes["truth"], true, "white")
for name, one in found.items():
    draw_segments(axes[name], one)
plt.show()

# %% [markdown]
# A wide source, enlarged: does it stay in one piece?

# %%
widest = int(np.argmax(field.truth.segments.lengths))
x0, y0, x1, y1 = field.truth.boxes[widest]
figure, axes = panels(shown, rms=rms, columns=3, side=3.2, label="Jy / beam")
draw_segments(axes["truth"], true, "white")
for name, one in found.items():
    draw_segments(axes[name], one)
for one in axes.values():
    one.set(xlim=(x0 - 25, x1 + 25), ylim=(y0 - 25, y1 + 25))
plt.show()

# %% [markdown]
# ## In numbers
#
# The rest of the chain is the same, so the catalogues can be matched with the truth row by row.
# Truth below a signal to noise of 5 counts neither way.

# %%
route = cyclades.Pipeline.from_route("classical")
catalogues = {
    name: route.replace(detection=name).run(field.image, workers=1).catalogue for name in found
}
comparison = compare(catalogues, field.truth, field.image)
tell(comparison.summary, "catalogue", "completeness", "reliability", "f1")

# %% [markdown]
# By class of the truth. Diffuse emission and radio galaxies are where detectors differ; for points
# a threshold in the right noise is as good as can be.

# %%
tell(comparison.by_class, "catalogue", "class", "truth", "completeness")

# %% [markdown]
# Fewer false rows or more true ones is a matter of the threshold: compare whole curves.

# %%
figure, axes = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
for name in found:
    rows = comparison.curves[comparison.curves["catalogue"] == name]
    axes.plot(rows["completeness"], rows["reliability"], label=name)
axes.set(xlabel="completeness", ylabel="reliability", xlim=(0.3, 1.0), ylim=(0.6, 1.02))
axes.legend()
plt.show()

# %% [markdown]
# ## A real image
#
# MAGPIS again, without a truth: one nebula or twenty sources? Both are fair answers to different
# questions.

# %%
with tempfile.TemporaryDirectory() as folder:
    try:
        real = cyclades.read_image(write_magpis(Path(folder))[0])
    except cyclades.CycladesError as error:
        print(f"left out: {error}")
        real = None

# %%
if real is not None:
    with cyclades.Context() as context:
        maps = cyclades.create_stage("background", "grid").estimate(real, context=context)
    objects = detections(real, maps)
    rms, level = float(np.nanmedian(maps.rms)), float(np.nanmedian(maps.level))
    shown = dict.fromkeys(objects, real.data)
    figure, axes = panels(shown, rms=rms, level=level, columns=3, side=4.0, label="Jy / beam")
    for name, one in objects.items():
        draw_segments(axes[name], one)
    plt.show()

# %% [markdown]
# ## What goes wrong, and where
#
# - *A threshold too low for the artefacts*: rings of false sources around bright ones. The detector
#   `islands` looks at the inverted image for that; networks know sidelobes from their training.
# - *Sources in pieces*: an image of a wide source has many summits. Refinements put them together
#   ([04_cataloguing](04_cataloguing.ipynb)).
# - *Sources unlike any of the training*: a network passes over what it never saw, such as a ring of
#   a size that no simulation had, and says nothing. Compare with a classical detection before you
#   trust a network with a new kind of image.
# - *Scores*: 0.5 is meant to be a source every second time, on images like those of the
#   calibration. `cyclades evaluate` calibrates anew.
#
# `cyclades run IMAGE --set detection=yolo` swaps it on your image; `cyclades compare-stages` shows
# what a swap changes; [many fields](../docs/benchmarks.md), [all detectors](../docs/detectors.md).
