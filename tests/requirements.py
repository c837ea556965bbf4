"""Tests that need an optional part of the installation."""

import importlib.util
import os

import pytest

MODULES = {
    "onnx": ("onnxruntime", "safetensors"),
    "learned": ("torch", "torchvision", "timm", "safetensors", "lightning", "sklearn"),
    "yolo": ("torch", "ultralytics"),
    "transformers": ("torch", "transformers"),
    "efficientdet": ("torch", "effdet"),
    "pretraining": ("torch", "lightly"),
    "notebooks": ("jupytext", "ipykernel"),
    "viewer": ("ipyaladin", "pyvo"),
    "docs": ("sphinx", "myst_parser", "numpydoc", "furo", "sphinx_copybutton", "latex2mathml"),
    "distributed": ("distributed", "dask_jobqueue"),
    "s3": ("s3fs", "moto", "flask", "flask_cors"),
    "hats": ("hats_import", "lsdb"),
}
"""What each extra brings."""


def require(extra: str) -> None:
    """Skip a module or test where an extra is missing; fail where CYCLADES_REQUIRE lists it."""
    missing = [name for name in MODULES[extra] if importlib.util.find_spec(name) is None]
    if not missing:
        return
    reason = f"the extra {extra!r} is not installed ({', '.join(missing)} missing)"
    if extra in {name.strip() for name in os.environ.get("CYCLADES_REQUIRE", "").split(",")}:
        pytest.fail(f"CYCLADES_REQUIRE names {extra!r}, but {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
