"""Which numbers the weights of a backbone are."""

import hashlib
from functools import lru_cache

from cyclades.stages.core.errors import CycladesError
from cyclades.stages.networks.specification import BackboneSpec
from cyclades.stages.networks.weights import find_file


def weights_hash(spec: BackboneSpec) -> str | None:
    """SHA-256 of the weights of a backbone as they are published; None where it has none.

    Raises
    ------
    InputError
        Where they cannot be had; the sentence says what to do.
    """
    return None if spec.weights is None else _hash(spec.weights)


def lacking(spec: BackboneSpec) -> str | None:
    """Return why the weights of a backbone cannot be had; None where they can."""
    try:
        weights_hash(spec)
    except CycladesError as error:
        return str(error)
    return None


@lru_cache
def _hash(weights: str) -> str:
    path, entry = find_file(weights)
    if entry is not None and entry.sha256:
        return entry.sha256
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
