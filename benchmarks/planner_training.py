"""What the planner is tried on: trainings of ten kinds, by name. Runs as a job: ``planner_training.py NAME EPOCHS``."""

import itertools
import sys

import torch
from torch import nn

from skyloom.runtime import context
from skyloom.runtime.checkpoint import Checkpoints
from skyloom.runtime.fit import FitPlan, fit
from skyloom.runtime.gang import gang


class Transformer(nn.Module):
    def __init__(self, words: int = 500, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(width, 2)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(words)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.GRU(16, 96, batch_first=True)
        self.head = nn.Linear(96, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(rows)[0][:, -1])


class Recommender(nn.Module):
    def __init__(self, users: int = 5_000, items: int = 2_000) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, 32), nn.Embedding(items, 32)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.users(pairs[:, 0]), self.items(pairs[:, 1] % 2_000)], 1)
        return self.head(both)


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(sizes):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(width: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, width, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(2 * width * 49, 2)),
    )


def numbers(rows: int, *shape: int) -> torch.Tensor:
    return torch.rand(rows, *shape)


def words(rows: int, length: int, most: int = 500) -> torch.Tensor:
    return torch.randint(0, most, (rows, length))


# name: network, rows, batch size
KINDS = {
    "mlp, small": lambda: (mlp(64, 128, 2), numbers(20_000, 64), 64),
    "mlp, wide": lambda: (mlp(256, 512, 512, 2), numbers(8_000, 256), 128),
    "mlp, deep": lambda: (mlp(64, *(96,) * 8, 2), numbers(8_000, 64), 64),
    "logistic regression on images": lambda: (nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), numbers(12_000, 784), 32),
    "cnn, narrow": lambda: (cnn(8), numbers(6_000, 1, 28, 28), 64),
    "cnn, wide": lambda: (cnn(24), numbers(3_000, 1, 28, 28), 128),
    "transformer": lambda: (Transformer(), words(1_600, 24), 32),
    "recurrent": lambda: (Recurrent(), numbers(3_000, 20, 16), 64),
    "recommender": lambda: (Recommender(), words(30_000, 2, 5_000), 256),
    "table, regression-like": lambda: (mlp(20, 64, 64, 2), numbers(24_000, 20), 128),
}


def main() -> None:
    name, epochs = sys.argv[1], int(sys.argv[2])
    torch.manual_seed(0)
    model, rows, batch_size = KINDS[name]()
    truth = torch.randint(0, 2, (len(rows),))

    def loss_of_rows(part: object) -> torch.Tensor:
        return nn.functional.cross_entropy(model(rows[part]), truth[part], reduction="sum")

    with gang("cpu") as members:
        plan = FitPlan(epochs=epochs, batch_size=batch_size, checkpoint_every_steps=500)
        fitted = fit(
            model, loss_of_rows, len(rows), plan, members, Checkpoints(context().shared_folder / "checkpoints")
        )
    if members.is_first:
        print(f"{fitted.steps} steps in {fitted.duration_s:.2f} s")


if __name__ == "__main__":
    main()
