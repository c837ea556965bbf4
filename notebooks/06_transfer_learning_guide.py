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
# # Transfer learning: a practical guide
#
# You have an image survey, a few labels, and a network that others trained on other images. Which
# network, how much of it to train, how many labels, what input? Each answer below is computed
# from rows of studies (`cyclades study transfer`), which lie in `notebooks/data`; the text has no
# figures of its own. Run the studies on your data, point `FOLDER` at them, and the guide is about
# your data.
#
# It is a notebook and a script, paired by jupytext: `python 06_transfer_learning_guide.py` prints
# it all.

# %%
import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet

try:
    HERE = Path(__file__).parent
except NameError:  # in Jupyter
    HERE = Path.cwd()
FOLDER = HERE / "data"


def read(name):
    """Read the rows of a table of all studies, as dictionaries."""
    rows = []
    for path in sorted(FOLDER.glob(f"*/{name}.parquet")):
        table = pyarrow.parquet.read_table(path).to_pylist()
        rows += [{"study": path.parent.name, **row} for row in table]
    return rows


ROUTES, SAVINGS = read("routes"), read("savings")
MAIN = [row for row in ROUTES if row["main"]]
TASKS = list(dict.fromkeys((row["study"], row["task"]) for row in MAIN))


def of(task, rows=MAIN, **wanted):
    """Rows of a task, and of a backbone, a mode or a number of labels where given."""
    keys = {"study": task[0], "task": task[1], **wanted}
    return [row for row in rows if all(row[key] == value for key, value in keys.items())]


def values(task, key):
    """Different values of a column in a task, in order."""
    return list(dict.fromkeys(row[key] for row in of(task)))


def figure(row):
    """Return a figure with its interval of 95 %."""
    return f"{row['value']:.3f} [{row['low']:.2f}, {row['high']:.2f}]"


def route(row):
    """Name a route."""
    return f"{row['backbone']}, {row['mode']}"


def difference(one, other):
    """Return how much better one row is than another, and the ends of the interval.

    The errors are taken as independent. Routes are judged on the same test, so that the true
    interval is narrower, and what is called clear is clear.
    """
    gain = one["value"] - other["value"]
    low = np.hypot(one["value"] - one["low"], other["high"] - other["value"])
    high = np.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return gain, gain - low, gain + high


def saving(row):
    """Return a label-saving factor with its interval; ends beyond the curve are limits or dots."""
    number = f"{row['bound']}{row['factor']:.2g}"
    low = f"{row['low']:.2g}" if 0 < row["low"] < np.inf else "..." if row["low"] == 0 else number
    high = f"{row['high']:.2g}" if 0 < row["high"] < np.inf else "..." if row["high"] else number
    return f"{number} [{low}, {high}]"


def verdict(one, other):
    """Say which of two rows is better, or that it cannot be told."""
    gain, low, high = difference(one, other)
    word = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
    return f"{gain:+.3f} [{low:+.2f}, {high:+.2f}]  {word}"


def table(task, text):
    """Print one line a route, one column a number of labels."""
    labels = sorted(values(task, "labels"))
    routes = list(dict.fromkeys(route(row) for row in of(task)))
    width = max(map(len, routes))
    print(" " * width, *(f"{number:>20}" for number in labels))
    for name in routes:
        cells = {row["labels"]: text(row) for row in of(task) if route(row) == name}
        print(f"{name:<{width}}", *(f"{cells.get(number, ''):>20}" for number in labels))


# %% [markdown]
# ## What was measured
#
# A route is a backbone, what of it is trained (its mode), and a number of labels. Modes: `frozen`
# trains nothing of the backbone, `fine_tuned` all of it from its weights, `scratch` all of it
# from random numbers; `random` is the control of `frozen`, a frozen network of random numbers.
# Intervals cover 95 %, over test units and seeds. Labels are pictures, simulated tiles or fields,
# so numbers of labels of different tasks do not compare. How each study was run is said in
# `data/README.md`.

# %%
for task in TASKS:
    rows = of(task)
    print(f"{' / '.join(task)}: {rows[0]['figure']}, {len(rows)} routes")
    print("  backbones:", ", ".join(values(task, "backbone")))
    print("  modes:    ", ", ".join(values(task, "mode")))
    print("  labels:   ", ", ".join(map(str, sorted(values(task, "labels")))))
    print("  seeds:    ", ", ".join(sorted({str(row["seeds"]) for row in rows})))

# %%
for task in TASKS:
    print(f"\n{' / '.join(task)}: {of(task)[0]['figure']} by number of labels")
    table(task, figure)

# %%
panels, axes = plt.subplots(1, len(TASKS), figsize=(4.2 * len(TASKS), 3.6), squeeze=False)
for task, axis in zip(TASKS, axes[0], strict=True):
    for name in dict.fromkeys(route(row) for row in of(task)):
        rows = sorted((r for r in of(task) if route(r) == name), key=lambda r: r["labels"])
        middle = np.array([row["value"] for row in rows])
        ends = np.array([[row["low"], row["high"]] for row in rows]).T
        bars = np.abs(ends - middle)
        axis.errorbar([r["labels"] for r in rows], middle, bars, marker="o", capsize=2, label=name)
    axis.set(xscale="log", xlabel="labels", ylabel=of(task)[0]["figure"], title="\n".join(task))
    axis.legend(fontsize=6)
panels.tight_layout()
plt.show()

# %% [markdown]
# ## In short
#
# The best route by number of labels, and all others that are not clearly worse: of these take the
# cheapest.

# %%
for task in TASKS:
    for labels in sorted(values(task, "labels")):
        here = sorted(of(task, labels=labels), key=lambda row: -row["value"])
        also = [route(row) for row in here[1:] if difference(here[0], row)[1] <= 0]
        print(f"{task[1]} ({task[0]}), {labels} labels: {route(here[0])}: {figure(here[0])}")
        if len(here) > 1:
            print("    as good:", "; ".join(also) or "none")

# %% [markdown]
# ## Which backbone?
#
# Compare frozen ones: that takes minutes, and says what the features are worth before anything is
# trained. The control says what the architecture alone is worth: a backbone that is not clearly
# better than its control knows nothing about your images, however large it is.

# %%
for task in TASKS:
    frozen = of(task, mode="frozen")
    for labels in sorted({row["labels"] for row in frozen}):
        here = sorted((r for r in frozen if r["labels"] == labels), key=lambda r: -r["value"])
        for other in here[1:]:
            print(f"{task[1]}, {labels} labels: {here[0]['backbone']} over {other['backbone']}:")
            print(f"    {verdict(here[0], other)}")
        for row in here:
            for control in of(task, mode="random", backbone=row["backbone"], labels=labels):
                print(f"{task[1]}, {labels} labels: {row['backbone']} over random numbers:")
                print(f"    {verdict(row, control)}")

# %% [markdown]
# ## Frozen or not?
#
# Frozen first: it has the fewest things to choose, cannot forget, and its features are computed
# once. Fine-tune where it is clearly better on held-out labels. From scratch is the comparison
# that says whether any of this was worth it.

# %%
for task in TASKS:
    for backbone in values(task, "backbone"):
        for labels in sorted(values(task, "labels")):
            here = {r["mode"]: r for r in of(task, backbone=backbone, labels=labels)}
            for one, other in (("frozen", "scratch"), ("fine_tuned", "frozen")):
                if one in here and other in here:
                    print(f"{task[1]}, {backbone}, {labels} labels: {one} over {other}:")
                    print(f"    {verdict(here[one], here[other])}")

# %% [markdown]
# ## How many labels?
#
# Look at what the last step of labels bought. Where it is clear, more labels will buy more, and
# are the first thing to spend time on; where it is not, change the backbone or the input instead.

# %%
for task in TASKS:
    for name in dict.fromkeys(route(row) for row in of(task)):
        rows = sorted((r for r in of(task) if route(r) == name), key=lambda r: r["labels"])
        if len(rows) > 1:
            before, last = rows[-2:]
            print(f"{task[1]}, {name}: from {before['labels']} to {last['labels']} labels:")
            print(f"    {verdict(last, before)}")

# %% [markdown]
# ## How many labels does it save?
#
# The label-saving factor: the labels that the same architecture needs from scratch to be as good,
# over those that the route had. One number a task: that of its best route at a tenth of the
# labels, or at the smallest share above where there is none. `>` and `<` are limits: the curve
# from scratch never gets there, or is there from the start; `...` is an end beyond that curve. An
# interval that holds one is no saving that could be shown. The curve from scratch had the same
# steps as the other networks: a longer training would raise it, and lower the factor
# (data/README.md says what they had).

# %%
headlines = {}
for task in TASKS:
    mine = of(task, SAVINGS)
    if mine:
        share = min({row["fraction"] for row in mine}, key=lambda one: (one < 0.1, abs(one - 0.1)))
        best = max((r for r in mine if r["fraction"] == share), key=lambda r: r["value"])
        headlines[task] = best
        print(f"{task[1]}: {saving(best)} ({route(best)}, {best['labels']} labels)")
    else:
        print(f"{task[1]}: none, for nothing was trained from scratch ({task[0]})")

# %% [markdown]
# ## Analytic needs time, learned needs data
#
# "Analytic needs a lot of time, learned needs a lot of data", by what the routes of Cyclades take:
# one row a route, the analytic one beside the learned ones. An analytic route (islands, Gaussians)
# needs no labels: its cost is the time of those who set its options, and that of every image. A
# learned one needs labels, or a simulator that knows the sky, and the time of its training, once.
# Labels are those that people made; times of training are of one CPU core. An image has 4096 x 4096
# pixels and 4,800 sources, and takes a whole command on two cores. The figures lie in
# `data/costs.csv`; `data/README.md` says how each was measured.

# %%
with (FOLDER / "costs.csv").open(encoding="utf-8", newline="") as file:
    COSTS = list(csv.DictReader(file))


def duration(seconds):
    """Return a time in the unit that suits it, with two digits."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def cost(row):
    """Return what a route takes, as cells of a table."""
    labels, preparation = int(row["labels"]), float(row["preparation_seconds"])
    if labels:
        learned_from = f"{labels:,} {row['learned_from']}"
    else:
        learned_from = ": ".join(filter(None, ["none", row["learned_from"]]))
    time = [duration(preparation)] if preparation else []
    return {
        "route": f"`{row['route']}`",
        "kind": row["kind"],
        "for": row["task"],
        "labels": learned_from,
        "tuning and training": ", ".join([*time, *filter(None, [row["preparation_note"]])]),
        "in use": f"{duration(float(row['use_seconds']))} {row['use_of']}",
    }


cells = [cost(row) for row in COSTS]
lines = [list(cells[0]), ["---"] * len(cells[0]), *(list(row.values()) for row in cells)]
COST_TABLE = "\n".join(f"| {' | '.join(line)} |".replace(" --- ", "---") for line in lines)
print(COST_TABLE)

# %% [markdown]
# What follows: how many times as long a learned route takes in use, and how many images an
# analytic one has done by the end of a training. Where all learned routes of a task have labels
# from a simulator, neither half of the sentence need hold; where no analytic route is there, labels
# decide.

# %%
for task in dict.fromkeys(row["task"] for row in COSTS):
    here = [row for row in COSTS if row["task"] == task]
    analytic = [row for row in here if row["kind"] == "analytic"]
    for row in (row for row in here if row["kind"] == "learned"):
        if not analytic:
            print(f"{task}: {row['route']} ({row['labels']} labels); no analytic route gives them")
        for other in analytic:
            longer = float(row["use_seconds"]) / float(other["use_seconds"])
            done = float(row["preparation_seconds"]) / float(other["use_seconds"])
            print(
                f"{task}: {row['route']} ({row['labels']} labels) takes {longer:.2g} times as long "
                f"as {other['route']} in use;\n    its training is the time of "
                f"{round(done, -2):,.0f} images by {other['route']}"
            )

# %% [markdown]
# The trainings of the studies: wall time in seconds, features included, on CPU cores that had
# other work to do, so take the orders of magnitude. What counts is mostly the labels: an
# astronomer's minute a picture costs more than a machine's.

# %%
for task in TASKS:
    print(f"\n{' / '.join(task)}: seconds of a training by number of labels")
    table(task, lambda row: f"{row['seconds']:.3g}")

# %% [markdown]
# ## Which input?
#
# Radio images have a range of brightness that pictures lack. The tasks below differ in the
# brightness curves of the three channels alone; `mixed` is linear, square root and asinh, one a
# channel. Where differences are not clear, keep the mixture: it decides nothing.

# %%
curves = [task for task in TASKS if task[0] == "stretches"]
if curves:
    by_labels = sorted({row["labels"] for task in curves for row in of(task)})
    for labels in by_labels:
        here = {task[1]: of(task, labels=labels, mode="frozen")[0] for task in curves}
        for name, row in here.items():
            print(f"{labels} labels, {name}: {figure(row)}")
        for name in sorted(here.keys() - {"mixed"}):
            print(f"    mixed over {name}: {verdict(here['mixed'], here[name])}")
else:
    print("no study named stretches is there")

# %% [markdown]
# ## Orientations and several backbones
#
# A radio galaxy has no upper side: features averaged over eight orientations cost eight times the
# time, and no labels. A second backbone is wrong about other pictures than the first: average the
# probabilities of a classifier on each. Both are options of a study's task. All routes here are
# judged on the same pictures, so that the intervals of differences are too wide: that all numbers
# of labels agree says more, and so does cross-validation (docs/studies.md).

# %%
plain = next((task for task in TASKS if task == ("morphology", "morphology")), None)
for name in ("morphology_turned", "morphology_joined"):
    if plain is None:
        break
    for row in of(("morphology", name), mode="frozen"):
        for other in of(plain, mode="frozen", backbone=row["backbone"], labels=row["labels"]):
            print(f"{row['labels']} labels: {name} over {plain[1]}: {verdict(row, other)}")

# %% [markdown]
# ## How to know that it failed
#
# - The control is as good: the weights were not loaded, the input is not what they were made
#   with, or the task needs no features. Look at a few inputs of the network.
# - Scratch with as many labels is as good: you have enough labels, or too few test units to tell.
# - Fine-tuned is clearly worse than frozen with few labels: too few steps, or too large ones.
# - One class is far below the others (below): accuracy hides it. Label that class.
# - Seeds differ by more than test units do: the labels drawn matter; label more, or choose
#   better.
# - Objects of the training are in the test: pictures of one source, overlapping fields. Split by
#   place on the sky, as the studies do.
#
# Each route that any of the first three befell, and the worst class of the best route:

# %%
found = []
for task in TASKS:
    for row in of(task):
        same = {"backbone": row["backbone"], "labels": row["labels"]}
        if row["mode"] == "frozen":
            found += [
                (task, row, other["mode"])
                for mode in ("random", "scratch")
                for other in of(task, mode=mode, **same)
                if difference(row, other)[1] <= 0
            ]
        if row["mode"] == "fine_tuned":
            found += [
                (task, row, "frozen")
                for other in of(task, mode="frozen", **same)
                if difference(row, other)[2] < 0
            ]
for task, row, other in found:
    what = "clearly worse than" if other == "frozen" else "not clearly better than"
    print(f"{task[1]}, {route(row)}, {row['labels']} labels: {what} {other}")
for task in TASKS:
    best = max(of(task), key=lambda row: row["value"])
    same = {key: best[key] for key in ("backbone", "mode", "labels")}
    classes = [r for r in of(task, ROUTES, **same) if r["figure"].startswith(("f1_", "complete"))]
    classes = [row for row in classes if not row["main"]]
    if classes:
        worst = min(classes, key=lambda row: row["value"])
        print(f"{task[1]}, best route ({route(best)}): {worst['figure']} is {figure(worst)}")
