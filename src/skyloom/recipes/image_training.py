"""Image classification: a small convolutional network over raw pixels; scaling and softmax are part of the graph."""

from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import nn

from skyloom.recipes import columns, evaluation
from skyloom.recipes.config import parameters
from skyloom.recipes.finish import Trained, finish
from skyloom.recipes.package import Meaning
from skyloom.recipes.publish import Outcome
from skyloom.rooms.registry.bundle import ModelKind
from skyloom.rooms.training.model import TrainingPlan
from skyloom.runtime.checkpoint import Checkpoints
from skyloom.runtime.context import context
from skyloom.runtime.export import image_input
from skyloom.runtime.fit import FitPlan, LossOfRows, fit
from skyloom.runtime.gang import Gang, gang
from skyloom.runtime.rows import RowSet, RowSource

INPUT, OUTPUT = "image", "probabilities"
_SMALLEST_MAP = 7


class ImageParameters(FitPlan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the image recipe, beside those of `FitPlan`.

    Attributes:
        image: column of pixels, uint8: [height, width], [channels, height, width] or [height, width, channels].
        width: channels of the first convolution; later ones have up to eight times as many.
        shift: training images are moved by up to this many pixels, at random, in each direction.
    """

    image: str = "image"
    width: Annotated[int, Meta(ge=4, le=512)] = 16
    shift: Annotated[int, Meta(ge=0, le=64)] = 1
    device: str = "auto"
    epochs: Annotated[int, Meta(ge=1, le=100_000)] = 8
    batch_size: Annotated[int, Meta(ge=1, le=2**20)] = 64
    learning_rate: Annotated[float, Meta(gt=0, le=100)] = 3e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 1e-2


class ImageNet(nn.Module):  # type: ignore[misc]
    """Pixels to class scores. Halves the picture until its shorter side is at most 7, then one hidden layer.

    The first convolution takes strides of two: at full size it would cost as much as all the others.
    """

    def __init__(self, shape: tuple[int, ...], num_classes: int, width: int) -> None:
        super().__init__()
        self.layout = layout(shape)
        channels, height, breadth = self.layout.channels, self.layout.height, self.layout.width
        stride = 2 if min(height, breadth) > _SMALLEST_MAP else 1
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 5, stride=stride, padding=2), nn.ReLU()]
        height, breadth = -(-height // stride), -(-breadth // stride)
        widest, channels = 8 * width, width
        while min(height, breadth) > _SMALLEST_MAP:
            layers += [nn.Conv2d(channels, min(2 * channels, widest), 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            height, breadth, channels = height // 2, breadth // 2, min(2 * channels, widest)
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(nn.Linear(channels * height * breadth, 64), nn.ReLU(), nn.Linear(64, num_classes))

    def scores_of(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores before softmax, shape [batch, classes], of pixels [batch, channels, height, width]."""
        scores: torch.Tensor = self.head(self.body(images.float() / 255 - 0.5))
        return scores

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Probabilities, shape [batch, classes], of pixels as they are stored."""
        return torch.softmax(self.scores_of(self.layout.channels_first(pixels)), dim=1)


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How the pixels of one image lie."""

    channels: int
    height: int
    width: int
    axis: int | None

    def channels_first(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels as [batch, channels, height, width]."""
        if self.axis is None:
            return pixels.unsqueeze(1)
        return pixels if self.axis == 0 else pixels.permute(0, 3, 1, 2)


def layout(shape: tuple[int, ...]) -> Layout:
    """Read a shape: two axes are a grey image; of three, the first or the last is the channels. Raises `NotAnImageColumn`."""
    if len(shape) == 2:
        return Layout(channels=1, height=shape[0], width=shape[1], axis=None)
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return Layout(channels=shape[0], height=shape[1], width=shape[2], axis=0)
    if len(shape) == 3 and shape[2] in (1, 3, 4):
        return Layout(channels=shape[2], height=shape[0], width=shape[1], axis=2)
    raise columns.NotAnImageColumn(
        f"Images of shape {list(shape)} cannot be read.", next_action="Use [height, width] with 1, 3 or 4 channels."
    )


def run(plan: TrainingPlan, source: RowSource) -> Outcome | None:
    """Train, and on rank 0 evaluate, export and register. All ranks call it; only rank 0 returns an outcome."""
    told = parameters(plan, ImageParameters)
    train = source.read(plan.train_on, [told.image, plan.target])
    test = source.read(plan.evaluate_on, [told.image, plan.target])
    labels = columns.labels(train.table.column(plan.target), plan.target)
    pixels = columns.images(train.table, told.image)
    classes = labels.encode(train.table.column(plan.target))
    torch.manual_seed(told.seed)
    model = ImageNet(pixels.shape[1:], len(labels.names), told.width)
    with gang(told.device) as members:
        model.to(members.device)
        checkpoints = Checkpoints(context().shared_folder / "checkpoints")
        fitted = fit(model, _loss(model, pixels, classes, members, told.shift), len(train), told, members, checkpoints)
    if not members.is_first:
        return None
    truth = labels.encode(test.table.column(plan.target))
    trained = Trained(
        model=model,
        meaning=Meaning(
            kind=ModelKind.CLASSIFICATION,
            outputs=(OUTPUT,),
            labels=labels.names,
            image=image_input(INPUT, pixels.shape[1:]),
        ),
        held_out={INPUT: _same_shape(columns.images(test.table, told.image), pixels)},
        evaluate=lambda scores: evaluation.classification(scores, truth, labels.names, plan.evaluate_on),
        rows=_splits(plan, train, test),
        fitted=fitted,
        seed=told.seed,
    )
    return finish(trained, plan)


def _loss(model: ImageNet, pixels: NDArray[Any], classes: NDArray[np.int64], members: Gang, shift: int) -> LossOfRows:
    # Pixels first, so that a shift moves the last two axes whatever the layout was.
    images = model.layout.channels_first(torch.from_numpy(pixels.copy())).contiguous().to(members.device)
    truth = torch.from_numpy(classes).to(members.device)

    def loss_of_rows(rows: NDArray[np.int64]) -> torch.Tensor:
        index = torch.from_numpy(rows).to(members.device)
        scores = model.scores_of(moved(images[index], shift))
        return nn.functional.cross_entropy(scores, truth[index], reduction="sum")

    return loss_of_rows


def moved(images: torch.Tensor, shift: int) -> torch.Tensor:
    """Images [batch, channels, height, width], all moved by one random offset of up to ``shift`` pixels; what comes in is black."""
    if not shift:
        return images
    down, right = (int(offset) for offset in torch.randint(0, 2 * shift + 1, (2,)))
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, (shift, shift, shift, shift))
    return padded[:, :, down : down + height, right : right + width]


def _same_shape(pixels: NDArray[Any], trained_on: NDArray[Any]) -> NDArray[Any]:
    if pixels.shape[1:] != trained_on.shape[1:]:
        raise columns.NotAnImageColumn(
            f"Images to evaluate on have the shape {list(pixels.shape[1:])}, those to train on {list(trained_on.shape[1:])}.",
            next_action="Give all images one size.",
        )
    return pixels


def _splits(plan: TrainingPlan, train: RowSet, test: RowSet) -> dict[str, RowSet]:
    return {plan.train_on: train, plan.evaluate_on: test}
