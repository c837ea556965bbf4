"""The card of a pre-trained backbone, and which curves are drawn of its run."""

from pathlib import Path
from typing import Any

import yaml

from cyclades.pipeline.training.card import write_text
from cyclades.stages.networks.specification import PretrainedSpec

CURVES = (
    ("loss",),
    ("probe_rank",),
    ("probe_accuracy", "probe_balanced", "probe_majority"),
)

_CARD = """---
license: {licence}
library_name: cyclades
tags: [astronomy, radio-astronomy, self-supervised]
---
# {name}

{architecture}, {parameters:,} parameters, pre-trained without labels {how}.
To start a detector from it (`cyclades train`):

```yaml
{use}```

- Input: {channels} ({stretches}) of the image in units of its noise (mesh of {mesh} pixels); beams
  of {low:g} to {high:g} pixels. A training with another input is refused.
- Trained for {steps} steps of {batch} crops of {size} x {size} pixels, seed {seed}; {crops:,} crops
  in all, of which {share:.0%} hold {least} islands or more ({islands:.1f} a crop). Data:

```yaml
{data}```

- Licence of the weights: {licence}.

## Figures

On {objects} objects of simulated tiles (preset `{preset}`) that the training did not see, by the
mean feature over each object's box, with nothing trained on top:

| figure | at the start | trained |
|---|---|---|
{rows}

Classes are told by a vote of the {neighbours} nearest objects from other tiles. The effective rank
is RankMe (Garrido et al. 2023, arXiv:2210.02885).
"""

_PRETEXTS = {
    "mae": "as a masked autoencoder (He et al. 2022, arXiv:2111.06377)",
    "dino": "by self-distillation (DINO, Caron et al. 2021, arXiv:2104.14294)",
    "teacher": "by telling the features of a frozen teacher (AM-RADIO, Ranzinger et al. 2024, "
    "arXiv:2312.06709)",
    "contrast": "by contrast (SimCLR, Chen et al. 2020, arXiv:2002.05709)",
}
_TITLES = {
    "probe_accuracy": "objects whose class is told",
    "probe_balanced": "mean of that over the classes",
    "probe_majority": "a guess of the most frequent class",
    "probe_rank": "effective rank",
}


def write_pretraining_card(spec: PretrainedSpec, weights: Path, parameters: int) -> Path:
    """Write the card beside the weights.

    Parameters
    ----------
    spec : PretrainedSpec
        With its configuration and its figures.
    weights : path
        Of the file of weights.
    parameters : int

    Raises
    ------
    InputError
        Where it cannot be written.
    """
    how: dict[str, Any] = spec.training["configuration"]
    figures: dict[str, float] = spec.training["figures"]
    use = {
        "network": {
            "backbone": {
                "name": spec.backbone.name,
                "options": spec.backbone.options,
                "weights": weights.name,
            },
            "input": {
                "stretches": list(spec.input.stretches),
                "mesh": spec.input.mesh,
                "beam_pixels": list(spec.input.beam_pixels),
            },
        },
        "adaptation": {"mode": "fine_tuned"},
    }
    number = len(spec.input.stretches)
    text = _CARD.format(
        name=spec.name,
        licence=spec.licence,
        architecture=spec.backbone.name,
        parameters=parameters,
        how=_PRETEXTS[spec.training["pretext"]],
        use=yaml.safe_dump(use, sort_keys=False),
        channels="one channel" if number == 1 else f"{number} channels",
        stretches=", ".join(spec.input.stretches),
        mesh=spec.input.mesh,
        low=spec.input.beam_pixels[0],
        high=spec.input.beam_pixels[1],
        steps=how["steps"],
        batch=how["batch"],
        size=how["size"],
        seed=how["seed"],
        crops=how["steps"] * how["batch"],
        share=figures["crops_with_islands"],
        least=how["curation"]["least_islands"],
        islands=figures["islands_a_crop"],
        data=yaml.safe_dump(how["data"], sort_keys=False),
        objects=spec.training["objects"],
        preset=how["probe"]["preset"],
        neighbours=how["probe"]["neighbours"],
        rows="\n".join(
            f"| {title} | {figures[f'{name}_at_start']:.3g} | {figures[name]:.3g} |"
            for name, title in _TITLES.items()
            if name in figures and f"{name}_at_start" in figures
        ),
    )
    return write_text(weights.with_suffix(".md"), text)
