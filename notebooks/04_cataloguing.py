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
# # Cataloguing: from components to sources that can be used
#
# The last stage makes the three linked tables, `components`, `sources` and `islands`, and refines
# them: parts of a radio galaxy become one source, rows get a class, or the probability of being
# real. Refinements see the whole catalogue at once, and are a list: `cataloguing: [components,
# associate]`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import cyclades
from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.panels import draw_ellipses, panels
from cyclades.pipeline.simulation.field import FieldOptions, simulate


def tell(table, *columns):
    """Print some columns of a table, numbers with three digits."""
    for name in columns:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".4g"
    table[list(columns)].pprint(max_width=-1, max_lines=25)


# %% [markdown]
# ## The implementations
#
# `components` builds; the others refine. Those that need something that is not here (a classifier
# is trained by `cyclades train-classifier`) say so.

# %%
print(cyclades.list_stages()["cataloguing"])

# %% [markdown]
# ## Where the truth is known
#
# Doubles and bent radio galaxies among unrelated sources.

# %%
options = FieldOptions.from_mapping(
    {
        "size": 768,
        "sky": {
            "half_share_flux": 1e-5, "doubles": 0.35, "bent": 0.15, "diffuse": 0.0,
            "radio_galaxy_size": [4.0, 20.0],
        },
        "plain": {"rms": 1e-5, "level": 0.0},
    },
    name="notebook",
)  # fmt: skip
field = simulate(options, seed=8)
route = cyclades.Pipeline.from_route("classical")
first = route.run(field.image, workers=1)
catalogues = {"components": first.catalogue}
for name in cyclades.list_stages()["cataloguing"]:
    if name == "components":
        continue
    try:
        refined = route.replace(cataloguing=["components", name])
        catalogues[name] = refined.run_from("cataloguing", first, workers=1).catalogue
    except cyclades.CycladesError as error:
        print(f"{name}: left out. {error}")
for name, catalogue in catalogues.items():
    print(f"{name}: {len(catalogue.components)} components, {len(catalogue.sources)} sources")

# %% [markdown]
# What each adds to the columns of `components` and `sources`:

# %%
plain = catalogues["components"]
for name, catalogue in catalogues.items():
    for table in ("components", "sources"):
        known = getattr(plain, table).colnames
        more = [c for c in getattr(catalogue, table).colnames if c not in known]
        if more:
            print(f"{name}, {table}: {', '.join(more)}")

# %% [markdown]
# ## Parts of one radio galaxy
#
# Lines join the parts that `associate` took for one source; rings are the true centres of objects
# with several components.

# %%
figure, axes = panels(
    {"components and sources": field.image.data}, rms=float(np.median(field.rms)), side=7.0,
    label="Jy / beam",
)  # fmt: skip
axes = axes["components and sources"]
draw_ellipses(axes, first.components)
joined = catalogues.get("associate", plain)
for source in joined.sources[joined.sources["n_components"] > 1]:
    parts = joined.components[joined.components["source_id"] == source["source_id"]]
    for part in parts:
        axes.plot(
            [part["x"].value, source["x"].value], [part["y"].value, source["y"].value],
            color="lime", lw=0.9,
        )  # fmt: skip
true = field.truth.catalogue.sources
true = true[(true["n_components"] > 1) & (true["snr"] > 5.0)]
axes.plot(true["x"], true["y"], "o", mfc="none", mec="white", ms=14)
plt.show()

# %%
if "associate" in catalogues:
    several = joined.sources[joined.sources["n_parts"] > 1]
    several.sort("total_flux", reverse=True)
    tell(
        several, "name", "n_parts", "n_components", "total_flux", "largest_angular_size",
        "association_probability", "host_type",
    )  # fmt: skip

# %% [markdown]
# ## How often it is right
#
# Of pairs of components: how many that were joined belong together (purity), how many that belong
# together were joined. Friends of friends is given the linking length that suits this very field
# best, which flatters it. `merged` is the share of unrelated compact sources that were joined with
# anything.

# %%
comparison = compare(
    {name: c for name, c in catalogues.items() if name in ("components", "associate")},
    field.truth,
    field.image,
)
table = comparison.further["association"]
tell(table, "catalogue", "rule", "whole", "pair_purity", "pair_completeness", "pair_f1", "merged")

# %% [markdown]
# ## Files for other programs
#
# One catalogue, many shapes: FITS and VOTable for TOPCAT and Aladin, regions for DS9 and CARTA,
# columns of Aegean, PyBDSF or Selavy for scripts that expect them.

# %%
with tempfile.TemporaryDirectory() as folder:
    result = route.run(field.image, workers=1)
    paths = result.write(
        folder, stem="field", formats=("fits", "votable", "csv", "ds9"), columns=("aegean",)
    )
    for path in sorted(Path(folder).iterdir()):
        print(f"{path.name:38s} {path.stat().st_size / 1024:8.1f} kB")
    again = cyclades.read_catalogue(Path(folder) / "field.catalogue.fits")
    print(again)

# %% [markdown]
# ## What goes wrong, and where
#
# - *A core too faint to be seen between two lobes*: two sources or one? The probability says how
#   sure it is; the threshold is a parameter (`cyclades stages associate`).
# - *Crowded fields*: the farther apart the lobes in units of the typical distance between sources,
#   the more often a chance neighbour is as likely. Above some density no rule can be right, and
#   the probability falls.
# - *Sums of components*: the total flux of a source is the sum of its components; where they
#   overshoot (`source_code` C, `residual_rms`), compare with `island_flux`.
#
# `cyclades run IMAGE --set 'cataloguing=[components,associate]'`;
# [figures](../docs/benchmarks.md#association), [every column](../docs/catalogue.md).
