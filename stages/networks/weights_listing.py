"""What ``cyclades weights`` says: a row of every detector, head and backbone, or one in full.

Nothing here needs torch.
"""

import json
from pathlib import Path

from cyclades.stages.core.errors import InputError
from cyclades.stages.core.registry import suggestion
from cyclades.stages.networks.dense_background import read_background_spec
from cyclades.stages.networks.specification import (
    BACKGROUND_KEY,
    CLASSIFIER_KEY,
    MEASURER_KEY,
    METADATA_KEY,
    PretrainedSpec,
)
from cyclades.stages.networks.weights import (
    DetectorFile,
    available_offline,
    package_file,
    shipped_detectors,
    shipped_heads,
)
from cyclades.stages.networks.weights_files import read_metadata
from cyclades.stages.networks.weights_table import WEIGHTS, Weights


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def listing() -> list[tuple[str, str, str, str, str]]:
    """Rows of all detectors and weights: name, kind, licence, size, available offline."""
    rows = [("name", "kind", "licence", "size", "offline")]
    for name, detector in shipped_detectors().items():
        spec = detector.spec
        size = _size(detector.path)
        kind, offline = f"detector, {spec.head.name}", "yes"
        if spec.trunk is not None:
            kind += f" on {spec.trunk.weights}"
            trunk = WEIGHTS.get(spec.trunk.weights)
            offline = "yes" if trunk is not None and available_offline(trunk) else "no"
        rows.append((name, kind, spec.licence, size, offline))
    for name, path in shipped_heads(BACKGROUND_KEY).items():
        head = read_background_spec(path)
        rows.append((name, f"background on {head.trunk}", head.licence, _size(path), "yes"))
    for name, path in shipped_heads(MEASURER_KEY).items():
        about = json.loads(read_metadata(path)[MEASURER_KEY])
        kind = "characterization, region head"
        if about.get("trunk") is not None:
            kind += f" on {about['trunk']['weights']}"
        rows.append((name, kind, about["licence"], _size(path), "yes"))
    for name, entry in WEIGHTS.items():
        offline = "yes" if available_offline(entry) else "no"
        size = f"{entry.megabytes:.1f} MB"
        rows.append((name, f"backbone, {entry.architecture}", entry.licence, size, offline))
    return rows


def describe(name: str) -> str:
    """Text on one detector or set of weights.

    Parameters
    ----------
    name : str
        A name of `listing`, or a file.

    Raises
    ------
    InputError
        Where there is none of that name, or the file cannot be read.
    """
    detector = shipped_detectors().get(name)
    if detector is not None:
        return detector.card or json.dumps(detector.spec.model_dump(mode="json"), indent=2)
    heads = shipped_heads(BACKGROUND_KEY) | shipped_heads(MEASURER_KEY)
    if name in heads:
        return _describe_file(heads[name])
    entry = WEIGHTS.get(name)
    if entry is None:
        if Path(name).expanduser().is_file():
            return _describe_file(Path(name).expanduser())
        names = [*shipped_detectors(), *heads, *WEIGHTS]
        raise InputError(
            f"There are no weights {name!r}{suggestion(name, names)}; there are {', '.join(names)}."
        )
    lines = {
        "what": entry.summary,
        "backbone.name": entry.architecture,
        "backbone.weights": entry.name,
        "origin": entry.origin,
        "SHA-256": entry.sha256 or "not recorded; the hub's own is checked",
        "size": f"{entry.megabytes:.1f} MB",
        "licence": entry.licence,
        "trained on": entry.data,
        "publication": entry.publication,
        "input": _input(entry),
        "available offline": "yes" if available_offline(entry) else "no",
    }
    if entry.taps:
        lines["taps"] = f"blocks {', '.join(map(str, entry.taps))} (option taps)"
    return _aligned(lines)


def _input(entry: Weights) -> str:
    """Say what a set of weights takes: pictures, or stretches of the canonical input."""
    path = package_file(entry) if entry.package else None
    if path is not None and path.suffix == ".safetensors":
        spec = PretrainedSpec.from_metadata(read_metadata(path), path)
        if spec is not None:
            low, high = spec.input.beam_pixels
            return (
                f"stretches {', '.join(spec.input.stretches)}, mesh of {spec.input.mesh} pixels, "
                f"beams of {low:g} to {high:g} pixels"
            )
    numbers = {"mean": entry.mean, "std": entry.std}
    return "R, G, B in 0 ... 1, " + ", ".join(
        f"{key} {' '.join(map(str, value))}" for key, value in numbers.items()
    )


def _describe_file(path: Path) -> str:
    """Text on a file of weights: its card where one lies beside it, else what it says itself."""
    metadata, card = read_metadata(path), path.with_suffix(".md")
    if METADATA_KEY in metadata:
        detector = DetectorFile(path.stem, path)
        return detector.card or json.dumps(detector.spec.model_dump(mode="json"), indent=2)
    for key in (CLASSIFIER_KEY, BACKGROUND_KEY, MEASURER_KEY):
        if key in metadata:
            if card.is_file():
                return card.read_text(encoding="utf-8")
            return json.dumps(json.loads(metadata[key]), indent=2)
    spec = PretrainedSpec.from_metadata(metadata, path)
    if spec is None:
        return (
            f"{path}: a file of weights that does not say what it is; a training takes it as "
            "network.backbone.weights where it is of one of the known layouts."
        )
    input, training = spec.input, spec.training
    lines = {
        "what": f"{spec.name}, a backbone pre-trained by cyclades pretrain",
        "backbone.name": spec.backbone.name,
        "backbone.options": json.dumps(spec.backbone.options),
        "backbone.weights": str(path),
        "input.stretches": ", ".join(input.stretches),
        "input.mesh": f"{input.mesh} pixels",
        "input.beam_pixels": "{:g} to {:g}".format(*input.beam_pixels),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "licence": spec.licence,
        "pretext": str(training.get("pretext", "-")),
        "steps": str(training.get("steps", "-")),
    }
    for key, value in training.get("figures", {}).items():
        lines[key.replace("_", " ")] = f"{value:.3g}"
    if card.is_file():
        lines["card"] = str(card)
    return _aligned(lines)


def _aligned(lines: dict[str, str]) -> str:
    """Keys and values in two columns."""
    width = max(map(len, lines)) + 1
    return "\n".join(f"{key + ':':<{width}} {value}" for key, value in lines.items())
