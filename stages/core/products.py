"""What the stages hand to each other."""

from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Background:
    """Level and rms maps: float32, of the image's shape and unit, NaN where it is blank.

    The rms is positive wherever it is finite.

    Parameters
    ----------
    level, rms : ndarray, shape (ny, nx)
    uncertain : ndarray of bool, shape (ny, nx), optional
        Where sources leave so little sky that the level was taken from elsewhere; nowhere where
        left out.
    """

    level: NDArray[np.float32]
    rms: NDArray[np.float32]
    uncertain: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        # Compiled stages take contiguous native float32, whatever the maps were cut from.
        for name in ("level", "rms"):
            plane = np.ascontiguousarray(getattr(self, name), np.float32)
            object.__setattr__(self, name, plane)

    def __repr__(self) -> str:
        middle = [
            float(np.median(plane[np.isfinite(plane)])) if np.isfinite(plane).any() else np.nan
            for plane in (self.level, self.rms)
        ]
        ny, nx = self.level.shape
        return (
            f"<Background: {nx} x {ny} pixels, median level {middle[0]:.3g}, "
            f"median rms {middle[1]:.3g}>"
        )


@dataclass(frozen=True, eq=False)
class Segments:
    """Ragged pixel lists: row i holds ``indices[offsets[i]:offsets[i + 1]]``.

    Indices are flat positions in the image (row-major). Rows may overlap, may be disconnected
    and may be empty.
    """

    indices: Integers
    offsets: Integers

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int | np.integer[Any]) -> Integers:
        return self.indices[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Integers:
        """Number of pixels of each row."""
        return np.diff(self.offsets)

    @classmethod
    def from_lists(cls, rows: list[Integers]) -> "Segments":
        """Join one array of flat indices a row."""
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        indices = np.concatenate(rows) if rows else np.zeros(0)
        return cls(indices.astype(np.int64), offsets.astype(np.int64))

    @classmethod
    def concatenate(cls, parts: list["Segments"]) -> "Segments":
        """Join several tables of segments, the rows of the first before those of the next."""
        shifts = np.cumsum([0] + [part.offsets[-1] for part in parts])
        offsets = [part.offsets[1:] + shift for part, shift in zip(parts, shifts, strict=False)]
        return cls(
            np.concatenate([part.indices for part in parts]),
            np.concatenate([np.zeros(1, np.int64), *offsets]),
        )

    def take(self, rows: Integers) -> "Segments":
        """Return the segments of some rows, in the order given."""
        rows = np.asarray(rows, np.int64)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Segments(self.indices[np.repeat(self.offsets[rows], lengths) + inside], offsets)

    def owner(self) -> Integers:
        """Row number of every entry of `indices`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def brightest(self, values: NDArray[np.floating]) -> Integers:
        """Position in `indices` of the pixel with the largest of `values` (one an index) of a row.

        Of several alike that with the lowest index is taken; NaN is never the largest. -1 for an
        empty row, or one of NaN.
        """
        result = np.full(len(self), -1, np.int64)
        filled = self.lengths > 0
        if filled.any():
            largest = np.full(len(self), np.nan)
            largest[filled] = np.fmax.reduceat(values, self.offsets[:-1][filled])
            owner = self.owner()
            found = np.flatnonzero(values == largest[owner])
            found = found[np.argsort(-self.indices[found], kind="stable")]
            # Of several values assigned to one place the last stays.
            result[owner[found]] = found
        return result

    def label_map(self, shape: tuple[int, int]) -> NDArray[np.int32]:
        """Derived view: row number + 1 in each pixel, 0 elsewhere; the later row wins overlaps."""
        labels = np.zeros(shape[0] * shape[1], np.int32)
        labels[self.indices] = self.owner() + 1
        return labels.reshape(shape)


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found, as linked rows.

    A row without a parent (``parent == -1``) is an island. An island with several peaks has one
    child row a peak; an island with one peak is a leaf itself. Leaf rows are the candidates that
    a characterizer measures. Only `box` and `score` are always known; `complete_detections` adds
    the segments and summits that a detector left out.

    Parameters
    ----------
    shape : (int, int)
        Shape of the image.
    box : ndarray, shape (n, 4)
        ``x0, y0, x1, y1`` in 0-based pixel coordinates, edges included (a pixel i spans
        i - 0.5 ... i + 0.5).
    score : ndarray, shape (n,)
        0 ... 1; a classical detector that has no score gives 1.
    parent : ndarray of int, shape (n,)
        Row of the island that a component belongs to, or -1. Parents come before children.
    segments : Segments, optional
        Pixels of each row. The children's segments partition their parent's.
    summit : ndarray, shape (n, 2), optional
        (x, y) of the peak of each leaf; NaN for islands with children.
    sign : ndarray of int, shape (n,), optional
        +1, or -1 for a negative source; None means all positive.
    class_probabilities : ndarray, shape (n, n_classes), optional
    classes : tuple of str
    flags : ndarray of int64, shape (n,), optional
        Bits of `cyclades.stages.core.flags.Flag` that the detector sets.
    source : ndarray of int, shape (n,), optional
        Number of the object that each leaf belongs to, for detectors that tell objects apart
        whose pixels touch; None where an island is one source.
    """

    shape: tuple[int, int]
    box: Floats
    score: Floats
    parent: Integers
    segments: Segments | None = None
    summit: Floats | None = None
    sign: Integers | None = None
    class_probabilities: Floats | None = None
    classes: tuple[str, ...] = ()
    flags: Integers | None = None
    source: Integers | None = None

    def __len__(self) -> int:
        return len(self.box)

    def __repr__(self) -> str:
        return f"<Detections: {len(self.islands)} islands, {len(self.leaves)} summits or boxes>"

    @property
    def complete(self) -> bool:
        """Whether pixels and summits are known, so that any characterizer can measure."""
        return self.segments is not None and self.summit is not None

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Rows that have no children: the component candidates."""
        leaf = np.ones(len(self), bool)
        leaf[self.parent[self.parent >= 0]] = False
        return leaf

    @property
    def leaves(self) -> Integers:
        """Row numbers of the component candidates."""
        return np.flatnonzero(self.is_leaf)

    @property
    def islands(self) -> Integers:
        """Row numbers of the islands."""
        return np.flatnonzero(self.parent < 0)

    @property
    def island_of(self) -> Integers:
        """Row number of the island of every row (its own where it has no parent)."""
        return np.where(self.parent < 0, np.arange(len(self)), self.parent)

    @property
    def signs(self) -> Integers:
        """+1 or -1 for every row."""
        return np.ones(len(self), np.int64) if self.sign is None else self.sign

    def take(self, rows: Integers) -> "Detections":
        """Return some rows, none of which has a parent or children, in the order given."""
        return replace(
            self,
            box=self.box[rows],
            score=self.score[rows],
            parent=self.parent[rows],
            segments=None if self.segments is None else self.segments.take(rows),
            **cast("Any", {name: value[rows] for name, value in self._optional().items()}),
        )

    def take_islands(self, chosen: NDArray[np.bool_]) -> "Detections":
        """Return some islands (one value a row of `islands`) with all their rows."""
        kept = np.zeros(len(self), bool)
        kept[self.islands] = chosen
        rows = np.flatnonzero(kept[self.island_of])
        place = np.cumsum(kept[self.island_of]) - 1
        parent = self.parent[rows]
        taken = self.take(rows)
        return taken.replace(parent=np.where(parent < 0, -1, place[parent]))

    @classmethod
    def concatenate(cls, parts: list["Detections"]) -> "Detections":
        """Join complete detections of one image; their sources stay apart."""
        shifts = np.cumsum([0] + [len(part) for part in parts])
        parents = [
            np.where(p.parent < 0, -1, p.parent + s) for p, s in zip(parts, shifts, strict=False)
        ]
        order = np.argsort(np.concatenate(parents) >= 0, kind="stable")
        place = np.empty(len(order) + 1, np.int64)
        place[order], place[-1] = np.arange(len(order)), -1
        first = parts[0]
        columns = {
            name: np.concatenate([getattr(p, name) for p in parts])[order]
            for name in first._optional()
        }
        if first.source is not None:
            sources = [
                p.source + s for p, s in zip(parts, shifts, strict=False) if p.source is not None
            ]
            columns["source"] = np.concatenate(sources)[order]
        segments = [p.segments for p in parts if p.segments is not None]
        return replace(
            first,
            box=np.concatenate([p.box for p in parts])[order],
            score=np.concatenate([p.score for p in parts])[order],
            parent=place[np.concatenate(parents)[order]],
            segments=Segments.concatenate(segments).take(order) if segments else None,
            **cast("Any", columns),
        )

    def _optional(self) -> dict[str, NDArray[Any]]:
        """Columns beside box, score, parent and segments that are known."""
        names = ("summit", "sign", "class_probabilities", "flags", "source")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def replace(self, **changes: Any) -> "Detections":
        """Return a copy with some attributes changed."""
        return replace(self, **changes)


PARAMETERS = ("peak", "x", "y", "sxx", "sxy", "syy")
"""Order of the rows and columns of `Components.covariance`."""


@dataclass(frozen=True, eq=False)
class Components:
    """One row a measured component, in pixels and image units.

    All arrays have length n; NaN means not measured. Fluxes of a negative source are negative.

    Parameters
    ----------
    detection : ndarray of int
        Leaf row of the detections that the component was measured for.
    island : ndarray of int
        Island row of the detections; equal for all components of an island.
    peak, x, y : ndarray
        Peak in the image's unit (above the background level), and 0-based position.
    sxx, sxy, syy : ndarray
        Covariance of the profile in pixels squared (beam included).
    total, total_err : ndarray
        Total flux in the image's unit times beams (``Jy`` for ``Jy/beam``; the pixel sum where
        there is no beam).
    covariance : ndarray, shape (n, 6, 6)
        Covariance of (peak, x, y, sxx, sxy, syy); see `PARAMETERS`.
    beam_flux, beam_flux_err : ndarray
        Flux of a fit of the beam's own shape, which has no width bias; NaN without a beam.
    resolved_probability : ndarray
        Probability that the profile is wider than the beam; NaN where unknown.
    flags : ndarray of int64
        Bits of `cyclades.stages.core.flags.Flag`.
    chi2, degrees_of_freedom : ndarray
        Of the island's fit, with the degrees of freedom in independent resolution elements.
    residual_mean, residual_rms : ndarray
        Over the pixels of the component's segment, in the image's unit.
    n_pixels : ndarray of int
        Pixels used by the measurement.
    fit_type : tuple of str
        How each row was measured: ``gaussian``, ``wavelet``, ``beam``, ``moments``, ...
    total_share : ndarray, optional
        Covariance of each total flux with the sum of its island's, for components whose fluxes
        are not independent; NaN, or None, where the error of the sum is that of its rows.
    extra : dict of str to ndarray
        Further columns of one characterizer (``kron_flux``, ...), named as catalogue columns.
    """

    detection: Integers
    island: Integers
    peak: Floats
    x: Floats
    y: Floats
    sxx: Floats
    sxy: Floats
    syy: Floats
    total: Floats
    total_err: Floats
    covariance: Floats
    beam_flux: Floats
    beam_flux_err: Floats
    resolved_probability: Floats
    flags: Integers
    chi2: Floats
    degrees_of_freedom: Floats
    residual_mean: Floats
    residual_rms: Floats
    n_pixels: Integers
    fit_type: tuple[str, ...]
    total_share: Floats | None = None
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.detection)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{self.fit_type.count(k)} {k}" for k in dict.fromkeys(self.fit_type))
        return f"<Components: {len(self)} measured{f' ({kinds})' if kinds else ''}>"

    @property
    def shape_covariance(self) -> Floats:
        """Profile covariances as (n, 2, 2) matrices in pixels squared."""
        first = np.stack([self.sxx, self.sxy], -1)
        return np.stack([first, np.stack([self.sxy, self.syy], -1)], -2)

    def error(self, name: str) -> Floats:
        """One-sigma error of a parameter of `PARAMETERS`; NaN for a negative variance."""
        i = PARAMETERS.index(name)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.sqrt(self.covariance[:, i, i]))
