"""What a run lends to its stages: threads, random numbers, a bounded cache, a note book."""

import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np

from cyclades.stages.core.errors import ConfigurationError

logger = logging.getLogger("cyclades.context")
T = TypeVar("T")
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


class Context(AbstractContextManager["Context"]):
    """Shared resources of one run, made and closed by the chain.

    Stages are frozen descriptions; whatever lives only while they run lives here.

    Parameters
    ----------
    workers : int
        Threads that a stage may use in all. Native libraries are held to this number too, and
        linear algebra to one.
    seed : int
        Root of every random draw of the run.
    device : str
        ``"cpu"`` or a torch device string; classical stages ignore it.
    cache_items : int
        How many cached values are kept at most (least recently used go first).

    Attributes
    ----------
    notes : dict
        What a stage decided while it ran (a measured noise autocorrelation, a fallback, a
        threshold derived from a false-discovery rate); the provenance record keeps it.
    listener : callable, optional
        Told the share of its work that a stage has done; see `report`.
    whole_image_noise : NoiseAutocorrelation, optional
        That of the whole image, where stages run on windows of it.
    wanted : dict
        What stages of this run want of those before them, by a key of their own.
    """

    def __init__(
        self, *, workers: int = 1, seed: int = 0, device: str = "cpu", cache_items: int = 64
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        if not _DEVICE.fullmatch(device):
            raise ConfigurationError(
                f"There is no device {device!r}; give cpu, cuda, or one of several as cuda:1."
            )
        self.workers = workers
        self.seed = seed
        self.device = device
        self.notes: dict[str, Any] = {}
        self.listener: Callable[[float], None] | None = None
        self.whole_image_noise: Any = None
        self.wanted: dict[Hashable, Any] = {}
        self._cache: OrderedDict[Hashable, Any] = OrderedDict()
        self._cache_items = cache_items
        self._prefix = ""
        self._limits: Any = None
        self._numba_threads = 0

    def __enter__(self) -> "Context":
        from threadpoolctl import threadpool_limits

        # Products of matrices are small here, and idle threads of a BLAS burn time while they
        # wait for the next one: a tenth of a whole run.
        self._limits = threadpool_limits(limits={"openmp": self.workers, "blas": 1})
        # numba keeps a thread count of its own, and refuses more than it was started with
        numba = sys.modules.get("numba")
        if numba is not None:
            self._numba_threads = numba.get_num_threads()
            numba.set_num_threads(min(self.workers, numba.config.NUMBA_NUM_THREADS))
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop cached values and give the thread limits back."""
        self._cache.clear()
        if self._limits is not None:
            self._limits.restore_original_limits()
            self._limits = None
        if self._numba_threads:
            sys.modules["numba"].set_num_threads(self._numba_threads)
            self._numba_threads = 0

    def generator(self, *key: int) -> np.random.Generator:
        """Return the random generator of a tile (or of any other integer key) of this run."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the cached value of `key`, making it with `make` where it is absent."""
        if key in self._cache:
            self._cache.move_to_end(key)
            found: T = self._cache[key]
            return found
        value = self._cache[key] = make()
        while len(self._cache) > self._cache_items:
            self._cache.popitem(last=False)
        return value

    def take(self, key: Hashable) -> Any:
        """Return the cached value of `key` and drop it; None where there is none."""
        return self._cache.pop(key, None)

    def note(self, key: str, value: Any) -> None:
        """Record a decision for the provenance record."""
        key = self._prefix + key
        logger.debug("%s: %s", key, value)
        self.notes[key] = value

    @contextmanager
    def noting_below(self, name: str) -> Iterator[None]:
        """Put the notes of a stage that another one runs below that one's name.

        Parameters
        ----------
        name : str
            ``"background"`` makes ``"background.detection.network"`` of ``"detection.network"``.
        """
        before, self._prefix = self._prefix, f"{self._prefix}{name}."
        try:
            yield
        finally:
            self._prefix = before

    def report(self, share: float) -> None:
        """Say which share of a stage's work is done, from 0 to 1, where that takes long."""
        if self.listener is not None:
            self.listener(share)

    def keep_only(self, *kinds: str) -> None:
        """Drop cached values but those of some kinds, the first part of their keys.

        For many images in one context: networks serve all of them, planes only their own image.
        """
        for key in [key for key in self._cache if not _is_of(key, kinds)]:
            del self._cache[key]


def _is_of(key: Hashable, kinds: tuple[str, ...]) -> bool:
    return isinstance(key, tuple) and bool(key) and key[0] in kinds
