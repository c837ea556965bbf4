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
# # Characterization: where, how bright, how large, and how sure
#
# Each detection becomes one row: position, peak and total flux, size, angle, and the errors of all.
# An error is right when the measured values scatter about the truth as much as it says: the *pull*,
# the difference over the error, has a width of one. Here all characterizers measure the same
# detections.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import cyclades
from cyclades.pipeline.comparison.accuracy import Pairs
from cyclades.pipeline.comparison.compare import compare
from cyclades.pipeline.panels import draw_ellipses, panels
from cyclades.pipeline.samples import write_magpis
from cyclades.pipeline.simulation.field import FieldOptions, simulate


def tell(table, *columns):
    """Print some columns of a table, numbers with three digits."""
    for name in columns:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".3f"
    table[list(columns)].pprint(max_width=-1, max_lines=-1)


# %% [markdown]
# ## The implementations

# %%
NAMES = cyclades.list_stages()["characterization"]
ROUTE = cyclades.Pipeline.from_route("classical")


def measured(image):
    """Measure the same detections by every characterizer; one that cannot run here says why."""
    first = ROUTE.run_until("detection", image, workers=1)
    made = {}
    for name in NAMES:
        try:
            made[name] = ROUTE.replace(characterization=name).run_from(
                "characterization", first, workers=1
            )
        except cyclades.CycladesError as error:
            print(f"{name}: left out. {error}")
    return made


# %% [markdown]
# ## Where the truth is known
#
# A third of the sources are galaxies, doubles, bent or diffuse.

# %%
options = FieldOptions.from_mapping(
    {
        "size": 768,
        "sky": {"half_share_flux": 5e-5, "doubles": 0.2, "bent": 0.1, "diffuse": 0.05},
        "plain": {"rms": 1.5e-5, "level": 0.0},
    },
    name="notebook",
)
field = simulate(options, seed=4)
results = measured(field.image)
comparison = compare(
    {name: result.catalogue for name, result in results.items()}, field.truth, field.image
)

# %% [markdown]
# The total flux over the true one, source by source. Points lie on one for everybody; the wide ones
# tell the characterizers apart.

# %%
figure, grid = plt.subplots(
    1, len(results), figsize=(3.4 * len(results), 3.4), sharey=True, squeeze=False,
    layout="constrained",
)  # fmt: skip
for axes, (name, outcome) in zip(grid[0], comparison.outcomes.items(), strict=True):
    pairs = Pairs.of_outcome(outcome)
    ratio = pairs.measured["total_flux"] / pairs.truth["total_flux"]
    for kind, marker in (("point", "."), ("resolved", "x"), ("blended", "+")):
        rows = pairs.kind == kind
        axes.plot(pairs.snr[rows], ratio[rows], marker, label=kind, ms=5, alpha=0.8)
    axes.axhline(1.0, color="0.4", lw=0.8)
    axes.set(xscale="log", ylim=(0.4, 1.9), xlabel="signal to noise", title=name)
grid[0, 0].set_ylabel("total flux / truth")
grid[0, 0].legend()
plt.show()

# %% [markdown]
# ## Biases and pulls
#
# Median of the ratio and robust width of the pulls, of all with a signal to noise above 5. A width
# above one: errors too small. Few sources: mind the intervals.

# %%
accuracy = comparison.accuracy
chosen = (accuracy["snr_low"] == 5.0) & np.isinf(accuracy["snr_high"])
chosen &= accuracy["quantity"] == "total_flux"
tell(
    accuracy[chosen],
    "catalogue",
    "kind",
    "number",
    "median",
    "median_low",
    "median_high",
    "scatter",
)

# %%
pulls = comparison.pulls
pulls.sort(["quantity", "kind"])
chosen = (pulls["snr_low"] == 5.0) & np.isinf(pulls["snr_high"])
chosen &= np.isin(pulls["quantity"], ["ra", "peak_flux", "total_flux", "major"])
tell(pulls[chosen], "quantity", "kind", "catalogue", "number", "sigma", "sigma_low", "sigma_high")

# %% [markdown]
# ## What the model leaves in the image
#
# The image less everything that was measured, in units of the noise.

# %%
panels(
    {name: result.residual / result.background.rms for name, result in results.items()},
    rms=1.0, limit=5.0, side=4.0, label="residual / rms",
)  # fmt: skip
plt.show()

# %% [markdown]
# ## A real image
#
# MAGPIS: the nebula is no Gaussian. Look at the residual, and at the sum of the fluxes against the
# sum of the pixels of the islands.

# %%
with tempfile.TemporaryDirectory() as folder:
    try:
        real = measured(write_magpis(Path(folder))[0])
    except cyclades.CycladesError as error:
        print(f"left out: {error}")
        real = {}

# %%
if real:
    first = next(iter(real.values()))
    rms, level = (float(np.nanmedian(m)) for m in (first.background.rms, first.background.level))
    shown = dict.fromkeys(real, first.image.data)
    figure, axes = panels(shown, rms=rms, level=level, side=4.0, label="Jy / beam")
    for name, result in real.items():
        draw_ellipses(axes[name], result.components, width=0.7)
    panels(
        {name: result.residual / result.background.rms for name, result in real.items()},
        rms=1.0, limit=5.0, side=4.0, label="residual / rms",
    )  # fmt: skip
    plt.show()
    for name, result in real.items():
        islands = result.catalogue.islands
        total = np.nansum(result.catalogue.components["total_flux"].value)
        pixels = np.nansum(islands["island_flux"].value)
        print(f"{name}: {total:.3f} Jy in components, {pixels:.3f} Jy in the islands' pixels")

# %% [markdown]
# ## What goes wrong, and where
#
# - *Faint sources are too bright*: one is found where noise helped it over the threshold. That is a
#   bias of selection, the same for all characterizers.
# - *Faint points look resolved*: noise widens a fit. `resolved_probability` says how sure that is;
#   the flux of a fit of the beam's own shape (`beam_flux`) has no width to be wrong about.
# - *One Gaussian for a bent source*: the position lies between the lobes and the flux depends on
#   the model. Moments know no model, and lose what lies below the threshold; what is restored
#   assumes a Gaussian again.
# - *Errors*: those of a fit are right where the noise's correlation is known. They do not include
#   calibration, nor that the source is no Gaussian (`chi2`, `residual_rms` say so).
#
# `cyclades run IMAGE --set characterization=moments` swaps it on your image.
