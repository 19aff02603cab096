"""Tabular classification and regression: a small network over raw columns; encoding, scaling and softmax are part of the graph.

The bundle's one input is ``row``: one float32 per feature column, in the order of the manifest's ``columns``. A missing value is NaN and
becomes the column's training mean. A text column goes in as the position of its value in ``encoding.json``, or NaN for an unknown one.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import nn

from skyloom.core.errors import InvalidInput
from skyloom.recipes import columns, evaluation
from skyloom.recipes.config import parameters
from skyloom.recipes.features import encoded
from skyloom.recipes.finish import Trained, finish
from skyloom.recipes.package import Meaning
from skyloom.recipes.publish import Outcome
from skyloom.rooms.data.making import SPLIT_COLUMN
from skyloom.rooms.registry.bundle import ENCODING_FILE, FeatureColumn, ModelKind
from skyloom.rooms.registry.model import Evaluation
from skyloom.rooms.training.model import TrainingPlan
from skyloom.runtime.checkpoint import Checkpoints
from skyloom.runtime.context import context
from skyloom.runtime.fit import FitPlan, LossOfRows, fit
from skyloom.runtime.gang import gang
from skyloom.runtime.rows import RowSet, RowSource, check_columns

INPUT = "row"
_MAX_CATEGORIES = 1_000


class NoFeatures(InvalidInput):
    """No column is left to predict from."""


class Goal(enum.StrEnum):
    """What is predicted."""

    AUTO = "auto"
    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class TabularParameters(FitPlan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the tabular recipe, beside those of `FitPlan`.

    Attributes:
        task: ``auto`` takes regression for a target of floats, else classification.
        features: columns to predict from; none named means all but the target, the split and what only names rows.
        ignore: columns to leave out, such as an id.
        hidden: sizes of the hidden layers; none makes it a linear model.
    """

    task: Goal = Goal.AUTO
    features: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    hidden: Annotated[tuple[Annotated[int, Meta(ge=1, le=8_192)], ...], Meta(max_length=8)] = (32,)
    device: str = "auto"
    epochs: Annotated[int, Meta(ge=1, le=100_000)] = 60
    batch_size: Annotated[int, Meta(ge=1, le=2**20)] = 32
    learning_rate: Annotated[float, Meta(gt=0, le=100)] = 3e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 1e-2


class TabularNet(nn.Module):  # type: ignore[misc]
    """Raw columns to scores: fills missing values, standardises numbers, one-hot encodes texts, then a plain network."""

    def __init__(
        self, rows: NDArray[np.float32], sizes: tuple[int, ...], hidden: tuple[int, ...], outputs: int
    ) -> None:
        """``sizes`` has one entry a column: the number of known texts, or 0 for numbers."""
        super().__init__()
        with np.errstate(invalid="ignore"):
            seen = np.ma.masked_invalid(rows.astype(np.float64))
        means, deviations = seen.mean(axis=0).filled(0.0), seen.std(axis=0).filled(1.0)
        deviations[deviations < 1e-12] = 1.0
        numeric = [at for at, size in enumerate(sizes) if not size]
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.long))
        self.register_buffer("means", torch.tensor(means[numeric], dtype=torch.float32))
        self.register_buffer("deviations", torch.tensor(deviations[numeric], dtype=torch.float32))
        owners = [(at, value) for at, size in enumerate(sizes) for value in range(size)]
        self.register_buffer("owners", torch.tensor([at for at, _ in owners], dtype=torch.long))
        self.register_buffer("codes", torch.tensor([float(value) for _, value in owners]))
        widths = (len(numeric) + len(owners), *hidden)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Linear(narrow, wide), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def scores(self, rows: torch.Tensor) -> torch.Tensor:
        """What the last layer says, shape [batch, outputs]."""
        numbers = rows[:, self.numeric]
        numbers = torch.where(torch.isfinite(numbers), numbers, self.means)
        ones = (rows[:, self.owners] == self.codes).float()  # NaN equals nothing: an unknown text is all zeros
        scores: torch.Tensor = self.body(torch.cat([(numbers - self.means) / self.deviations, ones], dim=1))
        return scores


class Classifier(TabularNet):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Probabilities, shape [batch, classes]."""
        return torch.softmax(self.scores(rows), dim=1)


class Regressor(TabularNet):
    """Learns the standardised target; answers in the target's own unit."""

    def set_unit(self, target: NDArray[np.float64]) -> None:
        """Remember mean and deviation of the training target."""
        self.register_buffer("mean", torch.tensor(target.mean(), dtype=torch.float32))
        self.register_buffer("unit", torch.tensor(max(float(target.std()), 1e-12), dtype=torch.float32))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Predictions, shape [batch, 1]."""
        return self.scores(rows) * self.unit + self.mean


def run(plan: TrainingPlan, source: RowSource) -> Outcome | None:
    """Train, and on rank 0 evaluate, export and register. All ranks call it; only rank 0 returns an outcome."""
    told = parameters(plan, TabularParameters)
    features = choose_features(source.columns(), plan, told)
    train = source.read(plan.train_on, [*features, plan.target])
    test = source.read(plan.evaluate_on, [*features, plan.target])
    known = tuple(describe(train.table.column(name), name) for name in features)
    target = train.table.column(plan.target)
    kind = _task(told.task, target)
    rows = encode(known, train)
    torch.manual_seed(told.seed)
    learn = _regression if kind is Goal.REGRESSION else _classification
    learned = learn(plan, told, known, rows, target, test.table.column(plan.target))
    with gang(told.device) as members:
        learned.model.to(members.device)
        checkpoints = Checkpoints(context().shared_folder / "checkpoints")
        fitted = fit(learned.model, learned.loss_of_rows, len(train), told, members, checkpoints)
    if not members.is_first:
        return None
    trained = Trained(
        model=learned.model,
        meaning=learned.meaning,
        held_out={INPUT: encode(known, test)},
        evaluate=learned.evaluate,
        rows={plan.train_on: train, plan.evaluate_on: test},
        fitted=fitted,
        seed=told.seed,
        extra_files={ENCODING_FILE: msgspec.json.encode(known)},
    )
    return finish(trained, plan)


def choose_features(names: Sequence[str], plan: TrainingPlan, told: TabularParameters) -> tuple[str, ...]:
    """The columns to predict from. Raises `ColumnMissing`, `NoFeatures`."""
    check_columns([plan.target, *told.features, *told.ignore], names)
    left_out = {plan.target, SPLIT_COLUMN, *told.ignore}
    usual = [name for name in names if name not in plan.identifiers]
    chosen = tuple(name for name in told.features or usual if name not in left_out)
    if not chosen:
        raise NoFeatures(
            f"No column is left to predict {plan.target!r} from.", next_action="Name some with features=[...]."
        )
    return chosen


def describe(column: pa.ChunkedArray, name: str) -> FeatureColumn:
    """How a training column is encoded. Raises `NoFeatures` for one that cannot be."""
    if columns.is_number(column.type) or pa.types.is_boolean(column.type):
        return FeatureColumn(name=name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise NoFeatures(
            f"The column {name!r} holds {column.type}, which is neither numbers nor texts.",
            next_action=f"Leave it out: ignore=[{name!r}].",
        )
    values = sorted(str(value) for value in column.unique().to_pylist() if value is not None)
    if not values or len(values) > _MAX_CATEGORIES:
        raise NoFeatures(
            f"The text column {name!r} has {len(values)} different values; 1 to {_MAX_CATEGORIES} can be learned from.",
            next_action=f"Leave it out: ignore=[{name!r}].",
        )
    return FeatureColumn(name=name, values=tuple(values))


def encode(known: Sequence[FeatureColumn], rows: RowSet) -> NDArray[np.float32]:
    """Rows as the model takes them, shape [rows, features]."""
    return np.stack([encoded(column, rows.table.column(column.name)) for column in known], axis=1)


@dataclass(frozen=True)
class _Learned:
    """What differs between classification and regression."""

    model: TabularNet
    loss_of_rows: LossOfRows
    meaning: Meaning
    evaluate: Callable[[NDArray[Any]], Evaluation]


def _classification(
    plan: TrainingPlan,
    told: TabularParameters,
    known: Sequence[FeatureColumn],
    rows: NDArray[np.float32],
    target: pa.ChunkedArray,
    held_out: pa.ChunkedArray,
) -> _Learned:
    labels = columns.labels(target, plan.target)
    truth = labels.encode(held_out)
    model = Classifier(rows, _sizes(known), told.hidden, len(labels.names))
    return _Learned(
        model,
        _loss(model, rows, labels.encode(target), nn.functional.cross_entropy),
        Meaning(ModelKind.CLASSIFICATION, ("probabilities",), labels.names, _names(known)),
        lambda scores: evaluation.classification(scores, truth, labels.names, plan.evaluate_on),
    )


def _regression(
    plan: TrainingPlan,
    told: TabularParameters,
    known: Sequence[FeatureColumn],
    rows: NDArray[np.float32],
    target: pa.ChunkedArray,
    held_out: pa.ChunkedArray,
) -> _Learned:
    wanted, truth = columns.numbers(target, plan.target), columns.numbers(held_out, plan.target)
    model = Regressor(rows, _sizes(known), told.hidden, 1)
    model.set_unit(wanted)
    scaled = ((wanted - wanted.mean()) / max(float(wanted.std()), 1e-12)).astype(np.float32)[:, None]
    return _Learned(
        model,
        _loss(model, rows, scaled, nn.functional.mse_loss),
        Meaning(ModelKind.REGRESSION, ("prediction",), (), _names(known)),
        lambda said: evaluation.regression(said[:, 0], truth, plan.evaluate_on),
    )


def _loss(
    model: TabularNet, rows: NDArray[np.float32], target: NDArray[Any], loss: Callable[..., torch.Tensor]
) -> LossOfRows:
    inputs, wanted = torch.from_numpy(rows), torch.from_numpy(target)

    def loss_of_rows(part: NDArray[np.int64]) -> torch.Tensor:
        index, device = torch.from_numpy(part), model.means.device
        return loss(model.scores(inputs[index].to(device)), wanted[index].to(device), reduction="sum")

    return loss_of_rows


def _task(asked: Goal, target: pa.ChunkedArray) -> Goal:
    if asked is not Goal.AUTO:
        return asked
    return Goal.REGRESSION if pa.types.is_floating(target.type) else Goal.CLASSIFICATION


def _sizes(known: Sequence[FeatureColumn]) -> tuple[int, ...]:
    return tuple(len(column.values) for column in known)


def _names(known: Sequence[FeatureColumn]) -> tuple[str, ...]:
    return tuple(column.name for column in known)
