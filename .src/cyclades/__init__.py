"""Cyclades: find, measure and catalogue sources in astronomical images, radio first.

The chain is background -> detection -> characterization -> cataloguing, and every stage can be
swapped; see `list_stages`. Names are imported when first used, so that ``import cyclades`` is
quick and loads no optional dependency.
"""

import logging
from importlib import import_module
from typing import Any

from cyclades._version import __version__

logging.getLogger("cyclades").addHandler(logging.NullHandler())

_EXPORTS = {
    "Background": "cyclades.stages.core.products",
    "Catalogue": "cyclades.stages.core.catalogue",
    "Components": "cyclades.stages.core.products",
    "Context": "cyclades.stages.core.context",
    "CycladesError": "cyclades.stages.core.errors",
    "Detections": "cyclades.stages.core.products",
    "Flag": "cyclades.stages.core.flags",
    "ImageSet": "cyclades.stages.core.source",
    "Pipeline": "cyclades.pipeline.chain",
    "Result": "cyclades.pipeline.chain",
    "SkyImage": "cyclades.stages.core.image",
    "create_stage": "cyclades.stages.core.registry",
    "list_stages": "cyclades.stages.core.registry",
    "measure_at": "cyclades.pipeline.measurement.forced",
    "measure_planes": "cyclades.pipeline.measurement.planes",
    "open_image": "cyclades.stages.core.io",
    "read_catalogue": "cyclades.stages.core.catalogue",
    "read_image": "cyclades.stages.core.io",
    "show": "cyclades.pipeline.viewing.show",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'cyclades' has no attribute {name!r}")


def __dir__() -> list[str]:
    # what this file itself imports is of no use to who completes a name
    return sorted({*globals(), *__all__} - {"Any", "import_module", "logging"})
