"""How columns of a table become the row of numbers that a tabular model takes: in training, and wherever it is asked later."""

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class FeatureColumn(msgspec.Struct, frozen=True, kw_only=True):
    """One feature. ``values`` are the known texts of a text column, in order; empty for numbers."""

    name: str
    values: tuple[str, ...] = ()

    def encode(self, column: pa.ChunkedArray) -> NDArray[np.float32]:
        """One number per row; NaN for a missing or unknown value."""
        if not self.values:
            encoded: NDArray[np.float32] = column.cast(pa.float64()).to_numpy().astype(np.float32)
            return encoded
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            known = pc.index_in(column, value_set=pa.array(self.values, column.type))
            found: NDArray[np.float32] = known.cast(pa.float32()).to_numpy()
            return found
        places = {value: float(at) for at, value in enumerate(self.values)}
        return np.array([places.get(str(value), np.nan) for value in column.to_pylist()], dtype=np.float32)
