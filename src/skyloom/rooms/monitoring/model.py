"""Nouns of monitoring: mergeable histograms, the profile a model was trained on, and what was seen since."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta


class Reduction(enum.StrEnum):
    """How one row of a tensor becomes the one number that a histogram counts."""

    COLUMN = "column"  # the element at `column` of the flattened row
    MEAN = "mean"  # over all elements of the row
    DEVIATION = "deviation"  # standard deviation over all elements of the row
    ARGMAX = "argmax"  # index of the largest element: the predicted class
    MAXIMUM = "maximum"  # the largest element: the winning score


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One watched number per row.

    Attributes:
        name: for people: "pixel mean", "age", "predicted class".
        tensor: name of the input or output tensor it is read from.
        is_output: read from an output (a prediction) rather than an input.
        edges: sorted inner bin edges; k edges make k + 1 bins, the first and the last open to infinity. A value on an edge
            belongs to the bin above it. NaN is counted in ``Histogram.missing``.
    """

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    tensor: str
    is_output: bool = False
    reduction: Reduction
    column: int = 0
    edges: Annotated[tuple[float, ...], Meta(max_length=200)]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts per bin. Two histograms over the same edges merge by adding."""

    counts: Annotated[tuple[int, ...], Meta(max_length=201)]
    missing: int = 0

    @property
    def total(self) -> int:
        return sum(self.counts) + self.missing


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's inputs and predictions looked like on its training version. ``histograms[i]`` belongs to ``features[i]``."""

    features: Annotated[tuple[Feature, ...], Meta(max_length=512)] = ()
    histograms: Annotated[tuple[Histogram, ...], Meta(max_length=512)] = ()


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Request durations, counted in bins that grow by a quarter: bin i holds durations in [1 µs · 1.25^i, 1 µs · 1.25^(i+1))."""

    counts: Annotated[dict[int, int], Meta(max_length=120)] = {}


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica saw since it started; every number only grows, so a lost report loses nothing.

    Attributes:
        requests: answered, whatever the answer.
        rows: predicted.
        client_errors, server_errors: answers 4xx and 5xx (gRPC: by the matching code).
        histograms: one per feature of the model's profile, in its order.
    """

    requests: int = 0
    rows: int = 0
    client_errors: int = 0
    server_errors: int = 0
    latency: Latency = Latency()
    histograms: Annotated[tuple[Histogram, ...], Meta(max_length=512)] = ()
