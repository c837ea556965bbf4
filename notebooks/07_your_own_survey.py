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
# # Your own survey: ten labels, and a head of your own
#
# Bring an image, label ten sources, let the head of a detector learn from them on a frozen
# backbone, run it, and see whether it was worth it. Here a simulated field stands in for your
# image, so that the end can be judged; put the path of yours in its place.
#
# It needs the extras `learned` and `yolo`, and takes half a minute. With so few steps and labels
# nothing dramatic happens: what counts is the way, and how to tell.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import cyclades
from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.config import RouteConfig
from cyclades.pipeline.labelling.candidates import find_candidates
from cyclades.pipeline.labelling.decisions import (
    Decision,
    Decisions,
    apply_decisions,
    write_labels,
)
from cyclades.pipeline.labelling.page import FORMAT, VERSION, write_label_page
from cyclades.pipeline.panels import draw_boxes, draw_segments, panels
from cyclades.pipeline.simulation.field import FieldOptions, simulate
from cyclades.stages.networks.weights import find_detector

FOLDER = Path(tempfile.mkdtemp())


def tell(table, *columns):
    """Print some columns of a table, numbers with three digits."""
    for name in columns:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".3f"
    table[list(columns)].pprint(max_width=-1, max_lines=-1)


# %% [markdown]
# ## An image
#
# Stripes as single dishes leave them, and a beam that the shipped networks know: many faint wide
# things that are no sources.

# %%
options = FieldOptions.from_mapping(
    {
        "size": 512,
        "sky": {"half_share_flux": 5e-5, "doubles": 0.25, "bent": 0.1},
        "plain": {"rms": 1e-5, "stripes": 0.5, "level": 1.0},
    },
    name="notebook",
)
mine, other = simulate(options, seed=71), simulate(options, seed=72)
mine.write(FOLDER / "mine")

# %% [markdown]
# ## Candidates, and a page
#
# The classical route proposes. `cyclades label mine.fits --output labels` makes the page on which
# you decide; it is written here too.

# %%
candidates = find_candidates(FOLDER / "mine.fits", RouteConfig.from_route("classical"), workers=1)
page = write_label_page(candidates, FOLDER / "mine.label.html")
print(f"{page.name}: {len(candidates)} candidates, {page.stat().st_size / 1024:.0f} kB")

# %% [markdown]
# ## Ten decisions
#
# In a notebook without a person the truth decides, about the ten brightest candidates and a few of
# the faintest. What is not decided is left open, and the training ignores it.

# %%
true = np.zeros(mine.image.shape, np.int64) - 1
for row in np.argsort(mine.truth.catalogue.sources["snr"]):
    true.ravel()[mine.truth.segments[row]] = row
order = np.argsort(-candidates.snr)
decisions = []
for number in [*order[:10], *order[-4:]]:
    inside = true.ravel()[candidates.segments[number]]
    inside = inside[inside >= 0]
    if len(inside):
        kind = str(mine.truth.morphology[np.bincount(inside).argmax()])
        decisions.append(Decision(candidates=(int(number),), state="accepted", kind=kind))
    else:
        decisions.append(Decision(candidates=(int(number),), state="rejected"))
made = Decisions(
    format=FORMAT, version=VERSION, image=candidates.image.name, identity=candidates.identity,
    configuration=candidates.result.config.to_mapping(), classes=candidates.classes,
    objects=tuple(decisions),
)  # fmt: skip
labels = apply_decisions(candidates, made)
coco, catalogue = write_labels(candidates, labels, FOLDER)
print(labels.counts)

# %%
rms = float(np.median(mine.rms))
figure, axes = panels(dict.fromkeys(("candidates", "accepted"), mine.image.data), rms=rms, side=5.0,
                      label="Jy / beam")  # fmt: skip
draw_segments(axes["candidates"], candidates.detections, "orange")
draw_segments(axes["accepted"], labels.detections)
plt.show()

# %% [markdown]
# ## A head learns
#
# From the weights that come with the package, the backbone frozen: so few labels can teach a head
# where to draw the line, and would spoil a backbone. Half of the tiles are simulated, so that the
# head does not forget what the labels do not show, and because scores become probabilities by
# comparison with many objects, which ten are not. On the command line the same mapping is a file
# for `cyclades train --config FILE --output DIR`.

# %%
configuration = {
    "name": "mine",
    "network": {
        "backbone": {
            "name": "resnet18", "options": {"channels": [32, 64, 128, 192]}, "channels": 64
        },
        "head": {"name": "yolo"},
        "input": {"beam_pixels": [3.5, 8.0]},
        "start": str(find_detector("yolo")),
    },
    "adaptation": {"mode": "frozen"},
    "data": [
        {"kind": "folder", "images": str(FOLDER / "mine.fits"), "labels": str(coco)},
        {"kind": "simulated", "preset": "natural", "seed": 77},
    ],
    "size": 128,
    "batch": 4,
    "steps": 30,
    "steps_a_checkpoint": 30,
    "validation": {"samples": 4, "final_samples": 48},
    "learning_rate": 2e-4,
    "warm_up": 5,
    "workers": 0,
    "seed": 7,
    "licence": "AGPL-3.0",
}  # fmt: skip
try:
    from cyclades.pipeline.training.options import TrainingOptions
    from cyclades.pipeline.training.trainer import train

    trained = train(
        TrainingOptions.from_mapping(configuration, name="notebook"), FOLDER / "run", progress=False
    )
    print(f"{trained.name}: {trained.stat().st_size / 1e6:.1f} MB")
except (ImportError, cyclades.CycladesError) as error:
    print(f"left out: {error}")
    trained = None

# %% [markdown]
# ## Was it worth it?
#
# On a field that it has not seen, beside the network that it started from and the classical route.
# With an image of your own, hold a part of the labels back and compare with those.

# %%
routes = {"classical": "classical", "yolo": "yolo"}
if trained is not None:
    routes["mine"] = {"detection": {"name": "yolo", "weights": str(trained)}}
results = {
    name: cyclades.Pipeline.from_route(route).run(other.image, workers=1)
    for name, route in routes.items()
}
comparison = compare(
    {name: result.catalogue for name, result in results.items()}, other.truth, other.image
)
tell(comparison.summary, "catalogue", "completeness", "reliability", "f1")

# %%
figure, axes = panels(dict.fromkeys(results, other.image.data), rms=rms, side=4.2,
                      label="Jy / beam")  # fmt: skip
for name, result in results.items():
    draw_boxes(axes[name], result.detections)
plt.show()

# %% [markdown]
# ## How to go on
#
# - Look at what the new head finds and the old one does not (`cyclades compare ... --report`), and
#   label that: ten labels where two networks disagree teach more than a hundred that both know.
# - Scores of a new head are not calibrated on your sky: `cyclades evaluate FILE --calibrate`.
# - No gain after some hundred steps, with fifty labels? Then the head was not what was missing:
#   [the guide](06_transfer_learning_guide.ipynb) says when to train more of the network.
# - Leave the simulations out, and see what becomes of completeness.
