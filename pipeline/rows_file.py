"""Rows of measured windows on disk, in Parquet, until the catalogue is made of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = dict[str, NDArray[Any]]


class RowsFile:
    """A table that grows by the rows of one window after another.

    Columns may have further axes (covariances); they are kept as lists of one length. Every part
    has the same columns.

    Parameters
    ----------
    path : Path
        Made when the first part is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._writer: Any = None

    def append(self, values: Values) -> None:
        """Write the rows of one window."""
        import pyarrow as pa
        from pyarrow import parquet

        shapes = {name: value.shape[1:] for name, value in values.items() if value.ndim > 1}
        columns = {}
        for name, value in values.items():
            if value.dtype.kind in "US":
                columns[name] = pa.array(value.tolist(), pa.string())
            elif value.ndim == 1:
                columns[name] = pa.array(value)
            else:
                flat = pa.array(np.ascontiguousarray(value).ravel())
                size = int(np.prod(value.shape[1:]))
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, size)
        table = pa.table(columns).replace_schema_metadata({"shapes": json.dumps(shapes)})
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self.path, table.schema, compression="zstd")
        self._writer.write_table(table)
        self.rows += table.num_rows

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def read(self) -> Values:
        """Return all rows, in the order in which they were written; nothing without any part."""
        from pyarrow import parquet

        self.close()
        if not self.path.exists():
            return {}
        file = parquet.ParquetFile(self.path)
        shapes = json.loads(file.schema_arrow.metadata[b"shapes"])
        values = {}
        # Column by column: the table as a whole would be held twice.
        for name in file.schema_arrow.names:
            column = file.read([name]).column(0)
            if name in shapes:
                flat = np.concatenate(
                    [np.zeros(0), *(c.flatten().to_numpy() for c in column.chunks)]
                )
                values[name] = flat.reshape(-1, *shapes[name])
            elif str(column.type) == "string":
                values[name] = np.array(column.to_pylist(), dtype=str)
            else:
                values[name] = column.to_numpy()
        file.close()
        return values
