"""Reductions: one row of a tensor becomes one number, and numbers become counts per bin.

Training builds the profile with it and the data plane watches live traffic with it, so both always mean the same by "pixel mean". A row is
one index of a tensor's first axis; the rest of the axes are flattened. Works on numpy arrays only; knows no model and no request.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.core.errors import InvalidInput
from skyloom.rooms.monitoring.model import Feature, Histogram, Profile, Reduction
from skyloom.rooms.registry.bundle import ModelKind

MAX_BINS = 20
MAX_COLUMNS = 256
_MAX_EDGES = 200
_STEP_FEATURES = 16
_CHUNK_ROWS = 256  # numpy sorts so few in the registers of a core: four times as quickly as more
# Rows at least so wide are added up in pieces of so many numbers: too few for OpenBLAS to wake threads, or for single precision to fail.
_PIECE = 8_192
_SPREAD = 16.0  # a mean square at most so many times the variance loses no more than a digit to their difference

Array = NDArray[Any]
Values = NDArray[np.float64]


class TensorMissing(InvalidInput):
    """A feature watches a tensor that is not there, or a column that it never has."""


def check_features(features: Sequence[Feature], widths: Mapping[str, int | None]) -> None:
    """Raise `TensorMissing` for a feature that could never be counted.

    Args:
        widths: elements of one row of each tensor that is there; None where rows may differ.
    """
    for feature in features:
        if feature.tensor not in widths:
            raise _no_tensor(feature.tensor, widths)
        width = widths[feature.tensor]
        if feature.reduction is Reduction.COLUMN and width is not None and feature.column >= width:
            raise TensorMissing(
                f"The profile watches column {feature.column} of {feature.tensor!r}, which has {width} columns.",
                next_action="Build the profile again from tensors of the model's own shape.",
            )


class Observer:
    """Turns tensors into counts for a fixed list of features; a feature's values are sorted, and its edges found among them.

    The counts are an array of shape [features, bins]: as many bins as the feature with most edges needs, and in the last column the
    missing (NaN) values. Arrays of counts add.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)
        widest = max((len(feature.edges) for feature in features), default=0)
        # NaN behind the edges: it marks where the missing values begin, and more of it adds bins that nothing falls into.
        self._edges = np.full((len(self.features), widest + 1), np.nan)
        for index, feature in enumerate(self.features):
            self._edges[index, : len(feature.edges)] = feature.edges
        self._bins = widest + 2
        self._groups, self._order = _grouped(self.features)
        self._is_ordered = self._order == list(range(len(self.features)))

    def zeros(self) -> NDArray[np.int64]:
        """Counts of nothing seen."""
        return np.zeros((len(self.features), self._bins), dtype=np.int64)

    def reduce(self, tensors: Mapping[str, Array]) -> Values:
        """Return one number per row and feature, shape [rows, features]; NaN for what a row does not have. Raises `TensorMissing`."""
        if not self.features:
            return np.zeros((0, 0))
        means: dict[str, Array] = {}
        parts = [_reduce_group(*group, tensors, means) for group in self._groups]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return values if self._is_ordered else values[:, self._order]

    def count(self, values: Values) -> NDArray[np.int64]:
        """Count the numbers that `reduce` returned."""
        counts = self.zeros()
        for _ in self.counting(values, counts):
            pass
        return counts

    def counting(self, values: Values, counts: NDArray[np.int64]) -> Iterator[None]:
        """Add the numbers that `reduce` returned to some counts, a few features at a step: whoever has others to serve goes on later."""
        for start in range(0, len(values) if values.size else 0, _CHUNK_ROWS):
            chunk = values[start : start + _CHUNK_ROWS]
            for first in range(0, chunk.shape[1], _STEP_FEATURES):
                features = slice(first, first + _STEP_FEATURES)
                columns = np.ascontiguousarray(chunk[:, features].T)
                columns.sort(axis=1)
                # How many lie below each edge. NaN is sorted behind everything, so below it lies all that is not missing.
                edges = zip(columns, self._edges[features], strict=True)
                below = np.array([column.searchsorted(each) for column, each in edges])
                counts[features, :-1] += np.diff(below, axis=1, prepend=0)
                counts[features, -1] += columns.shape[1] - below[:, -1]
                yield

    def histograms(self, counts: NDArray[np.int64]) -> tuple[Histogram, ...]:
        """Write counts as nouns, one per feature."""
        return tuple(
            Histogram(counts=tuple(row[: len(feature.edges) + 1].tolist()), missing=int(row[-1]))
            for feature, row in zip(self.features, counts, strict=True)
        )


def observe(features: Sequence[Feature], tensors: Mapping[str, Array]) -> tuple[Histogram, ...]:
    """Count all rows of some tensors: one histogram per feature. Raises `TensorMissing`."""
    observer = Observer(features)
    return observer.histograms(observer.count(observer.reduce(tensors)))


def build_profile(
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    kind: ModelKind,
    columns: Sequence[str] = (),
    free: Collection[str] = (),
) -> Profile:
    """Describe what a model saw and said in training: choose features, their edges, and count.

    Args:
        inputs, outputs: tensor name → all rows, shape [rows, ...]; the names of the bundle's signature.
        kind: what the first output means; classification watches the predicted class and its score, regression the number.
        columns: names of the columns of a 2-D input.
        free: inputs whose rows may be of any length (a free axis beside the batch): they have no columns that mean anything.

    Raises:
        InvalidInput: there are no rows.
    """
    everything = {**inputs, **outputs}
    if not everything or any(len(tensor) == 0 for tensor in everything.values()):
        raise InvalidInput("A profile needs at least one row of every tensor.", next_action="Give training rows.")
    drafts = [*_input_features(inputs, columns, free), *_output_features(outputs, kind)]
    features = tuple(_with_edges(draft, everything) for draft in drafts)
    return Profile(features=features, histograms=observe(features, everything))


def _input_features(inputs: Mapping[str, Array], columns: Sequence[str], free: Collection[str]) -> list[Feature]:
    features: list[Feature] = []
    for name, tensor in inputs.items():
        if tensor.dtype.hasobject:  # strings
            continue
        width = tensor.shape[1] if tensor.ndim == 2 else 1 if tensor.ndim == 1 else MAX_COLUMNS + 1
        if name not in free and len(features) + width <= MAX_COLUMNS:
            features += [_column(name, index, columns) for index in range(width)]
        else:
            features += [_draft(f"{name} {word}", name, word) for word in (Reduction.MEAN, Reduction.DEVIATION)]
    return features


def _column(tensor: str, index: int, columns: Sequence[str]) -> Feature:
    name = columns[index][:200] if index < len(columns) and columns[index] else f"{tensor} {index}"
    return Feature(name=name, tensor=tensor, reduction=Reduction.COLUMN, column=index, edges=())


def _draft(name: str, tensor: str, reduction: Reduction, is_output: bool = False) -> Feature:
    return Feature(name=name[:200], tensor=tensor, reduction=reduction, is_output=is_output, edges=())


def _output_features(outputs: Mapping[str, Array], kind: ModelKind) -> list[Feature]:
    first = next(iter(outputs), None)
    if first is None or kind is ModelKind.OTHER or outputs[first].dtype.hasobject:
        return []
    if kind is ModelKind.REGRESSION:
        return [_draft("prediction", first, Reduction.COLUMN, True)]
    return [
        _draft("predicted class", first, Reduction.ARGMAX, True),
        _draft("winning score", first, Reduction.MAXIMUM, True),
    ]


def _with_edges(draft: Feature, tensors: Mapping[str, Array]) -> Feature:
    classes = _rows(tensors[draft.tensor]).shape[1]
    if draft.reduction is Reduction.ARGMAX and classes <= _MAX_EDGES + 1:
        edges = tuple(index + 0.5 for index in range(classes - 1))
    else:
        edges = _edges(_reduce(draft, tensors))
    return Feature(
        name=draft.name,
        tensor=draft.tensor,
        is_output=draft.is_output,
        reduction=draft.reduction,
        column=draft.column,
        edges=edges,
    )


def _edges(values: Values) -> tuple[float, ...]:
    """Edges at equal shares of the values. A value that fills whole bins gets its own, closed on both sides."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ()
    # "lower" keeps edges on values that occur, so a column of few values gets one bin for each.
    quantiles = np.quantile(finite, np.linspace(0, 1, MAX_BINS + 1)[1:-1], method="lower")
    edges = np.unique(quantiles)
    if len(edges) == 1:
        edges = np.array([edges[0], np.nextafter(edges[0], np.inf)])
    return tuple(edges.tolist())


def _rows(tensor: Array) -> Array:
    return tensor if tensor.ndim == 2 else tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))


def _grouped(features: Sequence[Feature]) -> tuple[list[tuple[str, Reduction, list[int]]], list[int]]:
    """Put the columns of one tensor together, so that they are read in one step; and where each feature ends up."""
    groups: dict[tuple[str, Reduction, int], list[int]] = {}
    for index, feature in enumerate(features):
        alone = -1 if feature.reduction is Reduction.COLUMN else index
        groups.setdefault((feature.tensor, feature.reduction, alone), []).append(index)
    placed = [index for members in groups.values() for index in members]
    order = [placed.index(index) for index in range(len(features))]
    return [(key[0], key[1], [features[i].column for i in members]) for key, members in groups.items()], order


def _reduce(feature: Feature, tensors: Mapping[str, Array]) -> Values:
    """One number per row for one feature."""
    return _reduce_group(feature.tensor, feature.reduction, [feature.column], tensors, {})[:, 0]


def _reduce_group(
    tensor: str, reduction: Reduction, columns: Sequence[int], tensors: Mapping[str, Array], means: dict[str, Array]
) -> Values:
    """Shape [rows, columns] for `Reduction.COLUMN`, else [rows, 1]. ``means`` keeps those of each tensor's rows: two need them."""
    found = tensors.get(tensor)
    if found is None:
        raise _no_tensor(tensor, tensors)
    rows = _rows(found)
    width = rows.shape[1]
    if reduction is Reduction.COLUMN:
        if max(columns) < width:
            first, last = columns[0], columns[-1]
            is_slice = list(columns) == list(range(first, last + 1))
            return (rows[:, first : last + 1] if is_slice else rows[:, columns]).astype(np.float64)
        missing = np.full(len(rows), np.nan)  # rows shorter than those of training; free axes allow it
        return np.stack([rows[:, at].astype(np.float64) if at < width else missing for at in columns], axis=1)
    if not width:
        return np.full((len(rows), 1), np.nan)  # of nothing there is no mean
    with np.errstate(all="ignore"):  # infinities are data here; they land in the outer bins or count as missing
        if reduction in (Reduction.MEAN, Reduction.DEVIATION):
            mean = means.get(tensor)
            if mean is None:
                mean = means[tensor] = rows.mean(axis=1, dtype=_wide(rows))
            reduced = mean if reduction is Reduction.MEAN else _deviation(rows, mean)
        else:
            reduced = _REDUCTIONS[reduction](rows)
        return reduced.astype(np.float64)[:, None]


def _no_tensor(name: str, there: Collection[str]) -> TensorMissing:
    return TensorMissing(
        f"The profile watches tensor {name!r}, which is not there.",
        next_action=f"There are: {', '.join(sorted(there))}.",
    )


def _deviation(rows: Array, mean: Array) -> Array:
    """Rows of a picture are read once more and not copied, unless they are so flat that the difference of squares would say nothing."""
    if rows.dtype == np.float32 and rows.shape[1] >= _PIECE:
        squares = _squares(rows) / rows.shape[1]
        variance: Array = squares - np.square(mean, dtype=np.float64)
        if not (squares > _SPREAD * variance).any():
            return np.sqrt(variance)
    centred: Array = rows - mean[:, None]
    deviation: Array = np.sqrt(np.einsum("ij,ij->i", centred, centred) / rows.shape[1])
    return deviation


def _squares(rows: Array) -> Values:
    """The sum of each row's squares."""
    whole = rows.shape[1] // _PIECE * _PIECE
    pieces, rest = rows[:, :whole].reshape(len(rows), -1, _PIECE), rows[:, whole:]
    summed: Values = np.vecdot(pieces, pieces).sum(axis=1, dtype=np.float64) + np.vecdot(rest, rest)
    return summed


def _wide(rows: Array) -> type[np.floating[Any]]:
    return np.float32 if rows.dtype == np.float32 else np.float64


_REDUCTIONS: dict[Reduction, Callable[[Array], Array]] = {
    Reduction.ARGMAX: lambda rows: rows.argmax(axis=1),
    Reduction.MAXIMUM: lambda rows: rows.max(axis=1),
}
