"""The catalogue's tables: plain arrays to typed columns with unit, description and UCD."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cyclades.stages.core.schema import BRIGHTNESS, FLUX, SIZE, ColumnSpec, column, columns

if TYPE_CHECKING:
    from astropy.table import QTable
    from astropy.units import UnitBase


@dataclass(frozen=True)
class ImageUnits:
    """The units of a catalogue that depend on its image.

    Parameters
    ----------
    brightness, flux : astropy unit, optional
        None where the image has no unit.
    size : str
        ``arcsec`` on the sky, ``pix`` without celestial coordinates.
    """

    brightness: "UnitBase | None"
    flux: "UnitBase | None"
    size: str = "arcsec"

    @classmethod
    def of(cls, unit: "UnitBase | None", *, beam: bool, sky: bool) -> "ImageUnits":
        """Derive them from the image's unit.

        A total flux is in the image's unit times beams (``Jy`` for ``Jy / beam``); in an image
        per pixel it is the sum of pixels (``Jy`` for ``Jy / pix``); without a beam it is the
        sum of pixels as well (``Jy pix / beam`` where only the unit speaks of a beam).
        """
        import astropy.units as u

        size = "arcsec" if sky else "pix"
        if unit is None or unit == u.dimensionless_unscaled:
            return cls(None, None, size)
        if per_pixel(unit) or (not beam and u.beam in unit.bases):
            flux = unit * u.pix
        else:
            flux = unit * u.beam if beam else unit
        return cls(unit, None if flux == u.dimensionless_unscaled else flux, size)

    def resolve(self, unit: str) -> "UnitBase | None":
        """Return the unit that a name in the column table stands for; None where there is none."""
        import astropy.units as u

        if unit == BRIGHTNESS:
            return self.brightness
        if unit == FLUX:
            return self.flux
        name = self.size if unit == SIZE else unit
        return u.Unit(name) if name else None


def per_pixel(unit: "UnitBase | None") -> bool:
    """Whether an image's unit is per pixel, so that fluxes are sums of pixels."""
    import astropy.units as u

    return unit is not None and any(
        base == u.pix and power == -1 for base, power in zip(unit.bases, unit.powers, strict=True)
    )


def typed(values: Any, dtype: str) -> NDArray[Any]:
    """Cast values to a schema dtype; an empty dtype keeps theirs, with floats at single size."""
    array = np.asarray(values)
    if dtype == "str":
        return array.astype(str) if array.size else np.zeros(array.shape, "U1")
    if dtype:
        return array.astype(dtype)
    kinds = {"f": "f4", "i": "i4", "u": "i4", "b": "?", "U": "U", "S": "U", "O": "U"}
    return array.astype(kinds.get(array.dtype.kind, array.dtype))


def make_table(
    table: str,
    values: Mapping[str, Any],
    units: ImageUnits,
    *,
    sky: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> "QTable":
    """Assemble one of the three tables from plain arrays.

    Parameters
    ----------
    table : str
        ``components``, ``sources`` or ``islands``.
    values : mapping of str to array_like, shape (n,)
        One entry a column of the schema, in the column's unit; entries that are not columns of
        this table are ignored.
    units : ImageUnits
    sky : bool
        Whether the table has the sky columns.
    extra : mapping of str to array_like, optional
        Columns outside the schema, appended in the order given.

    Returns
    -------
    astropy.table.QTable
        Typed, with unit, description and UCD (``info.meta["ucd"]``) on every column.
    """
    from astropy.table import QTable

    result = QTable()
    for spec in columns(table, sky=sky):
        add_column(result, spec, values[spec.name], units.resolve(spec.unit))
    for name, value in (extra or {}).items():
        spec = column(table, name)
        add_column(result, spec, value, units.resolve(spec.unit))
    return result


def add_column(table: "QTable", spec: ColumnSpec, values: Any, unit: "UnitBase | None") -> None:
    """Append one typed column with its metadata to a table."""
    import astropy.units as u
    from astropy.table import Column

    array = typed(values, spec.dtype)
    if unit is None:
        table[spec.name] = Column(array)
    else:
        table[spec.name] = u.Quantity(array, unit, dtype=array.dtype, copy=False)
    info = table[spec.name].info
    info.description = spec.description
    if spec.ucd:
        info.meta = {"ucd": spec.ucd}


def replace_values(table: "QTable", name: str, values: Any) -> None:
    """Give a column without a unit other values; its place and its metadata stay.

    Parameters
    ----------
    table : QTable
        Changed in place.
    name : str
    values : array_like, shape (n,)
        Text of any width.
    """
    from astropy.table import Column

    info = table[name].info
    description, meta = info.description, info.meta
    table.replace_column(name, Column(np.asarray(values)))
    table[name].info.description, table[name].info.meta = description, meta


class StoredColumn(NamedTuple):
    """A column as a file holds it: values, unit, UCD, description."""

    values: Any
    unit: Any
    ucd: str
    description: str


def rebuild_table(table: str, stored: Mapping[str, StoredColumn]) -> "QTable":
    """Return a typed table from what a file holds, column by column."""
    from astropy.table import QTable
    from astropy.units import Unit

    result = QTable()
    for name, held in stored.items():
        dtype = column(table, name).dtype
        values = held.values
        if np.asarray(values).dtype.kind == "S":
            values = np.char.decode(values, "utf-8")
        spec = ColumnSpec(name, "", held.ucd, held.description, (table,), dtype)
        unit = Unit(held.unit) if held.unit not in (None, "") else None
        add_column(result, spec, values, unit)
    return result
