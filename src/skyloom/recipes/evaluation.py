"""How good is a model on rows it was not trained on. Arithmetic over arrays only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.rooms.registry.model import ClassScore, Evaluation

_MAX_CONFUSION = 100


def classification(scores: NDArray[Any], truth: NDArray[np.int64], labels: Sequence[str], split: str) -> Evaluation:
    """Evaluate class scores, shape [rows, classes]. A truth of -1 is a class that the model does not know: always wrong."""
    guessed = scores.argmax(axis=1)
    known = truth >= 0
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (truth[known], guessed[known]), 1)
    right, taken, true = confusion.diagonal(), np.bincount(guessed, minlength=len(labels)), confusion.sum(axis=1)
    precision, recall = _ratio(right, taken), _ratio(right, true)
    f1 = _ratio(2 * precision * recall, precision + recall)
    classes = tuple(
        ClassScore(label=label, precision=float(precision[at]), recall=float(recall[at]), num_rows=int(true[at]))
        for at, label in enumerate(labels)
    )
    metrics = {
        "accuracy": float((guessed == truth).mean()),
        "macro_f1": float(f1[true > 0].mean()) if true.any() else 0.0,
    }
    return Evaluation(
        split=split,
        num_rows=len(truth),
        metrics=metrics,
        classes=classes,
        confusion=tuple(tuple(row.tolist()) for row in confusion) if len(labels) <= _MAX_CONFUSION else (),
    )


def regression(predictions: NDArray[Any], truth: NDArray[np.float64], split: str) -> Evaluation:
    """Evaluate numbers, shape [rows]. R² is 0 when the truth does not vary."""
    errors = predictions.astype(np.float64) - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    metrics = {
        "rmse": float(np.sqrt((errors**2).mean())),
        "mae": float(np.abs(errors).mean()),
        "r2": 1 - float((errors**2).sum()) / spread if spread else 0.0,
    }
    return Evaluation(split=split, num_rows=len(truth), metrics=metrics)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return ratio
