"""How columns of a table become the row of numbers that a tabular model takes: in training, and wherever it is asked later."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skyloom.rooms.registry.bundle import FeatureColumn


def encoded(feature: FeatureColumn, column: pa.ChunkedArray) -> NDArray[np.float32]:
    """One number per row; NaN for a missing or unknown value."""
    if not feature.values:
        numbers: NDArray[np.float32] = column.cast(pa.float64()).to_numpy().astype(np.float32)
        return numbers
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        known = pc.index_in(column, value_set=pa.array(feature.values, column.type))
        found: NDArray[np.float32] = known.cast(pa.float32()).to_numpy()
        return found
    places = {value: float(at) for at, value in enumerate(feature.values)}
    return np.array([places.get(str(value), np.nan) for value in column.to_pylist()], dtype=np.float32)
