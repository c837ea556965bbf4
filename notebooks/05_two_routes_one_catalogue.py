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
# # Two routes, one catalogue
#
# A classical route and one whose detection is a network end in the same columns, with the same
# units and conventions. So they can be compared row by row: what does each find that the other does
# not, do fluxes and positions agree, which stage made the difference, and which of them is right?

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import cyclades
from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.comparison.match import match
from cyclades.pipeline.comparison.report import write_report
from cyclades.pipeline.comparison.stages import compare_stages
from cyclades.pipeline.panels import draw_ellipses, panels
from cyclades.pipeline.samples import write_magpis
from cyclades.pipeline.simulation.field import FieldOptions, simulate

ROUTES = ("classical", "yolo")


def tell(table, *columns):
    """Print some columns of a table, numbers with three digits."""
    for name in columns:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".3f"
    table[list(columns)].pprint(max_width=-1, max_lines=30)


# %% [markdown]
# ## Run both
#
# A field with artefacts: a short observation with a real array, imperfectly calibrated.

# %%
options = FieldOptions.from_mapping(
    {
        "size": 640,
        "sky": {"half_share_flux": 1e-5, "doubles": 0.2, "diffuse": 0.08},
        "telescope": {"rms": 5e-6, "gain_phase": 5.0, "gain_amplitude": 0.03},
    },
    name="notebook",
)
field = simulate(options, seed=21)
results = {name: cyclades.Pipeline.from_route(name).run(field.image, workers=1) for name in ROUTES}
for name, result in results.items():
    seconds = sum(result.provenance["timings"].values())
    print(f"{name}: {result.catalogue}, {seconds:.1f} s")
same = [result.catalogue.components.colnames for result in results.values()]
assert same[0] == same[1]

# %%
rms = float(np.median(field.rms))
figure, axes = panels(dict.fromkeys(ROUTES, field.image.data), rms=rms, side=5.0, label="Jy / beam")
for name, result in results.items():
    draw_ellipses(axes[name], result.components)
plt.show()

# %% [markdown]
# ## Row by row, without a truth
#
# Matched rows, and those that only one of the two has.

# %%
catalogues = {name: result.catalogue for name, result in results.items()}
comparison = compare(catalogues, field.truth, field.image)
one, other = (comparison.catalogues[name] for name in ROUTES)
pairs = match(one, other, beam=comparison.meta["beam"])
print(f"{len(pairs)} rows of both, {len(one) - len(pairs)} of {ROUTES[0]} alone, "
      f"{len(other) - len(pairs)} of {ROUTES[1]} alone")  # fmt: skip

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for table, rows, name in (
    (one, pairs.first_rows, ROUTES[0]),
    (other, pairs.second_rows, ROUTES[1]),
):
    alone = np.ones(len(table), bool)
    alone[rows] = False
    left.hist(np.log10(table["snr"][alone]), np.arange(0.5, 2.6, 0.1), histtype="step", label=name)
left.set(xlabel="log10 signal to noise", ylabel="rows of this route alone")
left.legend()
snr = one["snr"][pairs.first_rows]
ratio = other["total_flux"][pairs.second_rows] / one["total_flux"][pairs.first_rows]
right.plot(snr, ratio, ".")
right.axhline(1.0, color="0.4", lw=0.8)
right.set(xscale="log", xlabel=f"signal to noise in {ROUTES[0]}", ylim=(0.5, 1.5),
          ylabel=f"total flux, {ROUTES[1]} / {ROUTES[0]}")  # fmt: skip
plt.show()

# %% [markdown]
# ## Who is right
#
# With the truth. `oracle` is the classical route given the true level and noise of the image: it
# takes every artefact above the noise for a source.

# %%
tell(comparison.summary, "catalogue", "completeness", "reliability", "f1")
tell(comparison.by_class, "catalogue", "class", "truth", "completeness")

# %% [markdown]
# ## Stage by stage
#
# One stage of the second route at a time in the first. Only the detection differs here; give two
# routes that differ in more, and each stage gets a row.

# %%
stages = compare_stages(
    field.image, ["classical", {"background": "sep", "detection": "yolo"}], field.truth, workers=1
)
print(stages.format())

# %%
figure = plt.figure(figsize=(11, 7.2), layout="constrained")
with tempfile.TemporaryDirectory() as folder:
    stages.plot().savefig(Path(folder) / "stages.png", dpi=90)
    plt.imshow(plt.imread(Path(folder) / "stages.png"))
plt.axis("off")
plt.show()

# %% [markdown]
# ## A page to explore
#
# The report is one HTML file: the image with the catalogues as layers, curves, and a table of all
# rows; a click on a source shows its cut-out and its row in every catalogue.

# %%
with tempfile.TemporaryDirectory() as folder:
    page = write_report(comparison, Path(folder), field.image)
    print(f"{page.name}: {page.stat().st_size / 1024:.0f} kB")

# %% [markdown]
# ## A real image
#
# Without a truth what remains is agreement, what each leaves in the image, and the inverted image:
# whatever is found there is false.

# %%
with tempfile.TemporaryDirectory() as folder:
    try:
        path = write_magpis(Path(folder))[0]
        real = {name: cyclades.Pipeline.from_route(name).run(path, workers=1) for name in ROUTES}
    except cyclades.CycladesError as error:
        print(f"left out: {error}")
        real = {}

# %%
if real:
    first = real[ROUTES[0]]
    rms, level = (float(np.nanmedian(m)) for m in (first.background.rms, first.background.level))
    shown = dict.fromkeys(real, first.image.data)
    figure, axes = panels(shown, rms=rms, level=level, side=5.0, label="Jy / beam")
    for name, result in real.items():
        draw_ellipses(axes[name], result.components)
    plt.show()
    comparison = compare(
        {name: result.catalogue for name, result in real.items()}, image=first.image
    )
    tell(comparison.agreement, *comparison.agreement.colnames[:6])

# %% [markdown]
# ## What to make of it
#
# - Rows of one route alone at a low signal to noise are mostly a matter of thresholds: compare at
#   equal reliability.
# - Rows of one route alone at a high one deserve a look, in the report: an artefact, a piece of a
#   wide source, or something that the other never learned.
# - Where both have a row and the fluxes differ, the pixels that each detector gave to the source
#   differ: the measurement is the same.
#
# On the command line: `cyclades compare a=A.fits b=B.fits --image IMAGE --report DIR` and
# `cyclades compare-stages IMAGE --routes a,b`.
