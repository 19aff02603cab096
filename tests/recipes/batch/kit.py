"""A toy model, rows for it, and one call that predicts them; for tests, and for the process that is killed."""

from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa

from skyloom.core import digests
from skyloom.inference import model as models
from skyloom.ports.tables import Tables, TableVersion
from skyloom.recipes.batch.predicting import SourceRows, predict
from skyloom.rooms.data.contents import Contents
from skyloom.rooms.data.making import Predict
from tests.inference.serving import FEATURES, oracle, toy_rows, write_bundle

SOURCE, TARGET, KEY = "p/rows", "p/said", "draft_1"


def vectors(rows: np.ndarray) -> pa.Table:
    """Rows as one column of vectors, with a number and a part each."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    parts = ["train" if place % 3 else "test" for place in range(len(rows))]
    return pa.table({"x": flat, "n": pa.array(range(len(rows))), "split": parts})


@dataclass
class Desk:
    """Predicts a table with the toy model."""

    folder: Path
    tables: Tables
    bundle: Path = field(init=False)
    kept: list[bytes] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _tries: count = field(default_factory=count)  # type: ignore[type-arg]

    def __post_init__(self) -> None:
        self.bundle = self.folder / "bundle"
        if not self.bundle.exists():
            write_bundle(self.bundle)

    def fill(self, table: pa.Table) -> None:
        self.tables.write(SOURCE, table.to_reader(500), base=None, key="rows")

    def predict(self, cpus: float = 2, **making: object) -> tuple[TableVersion, Contents]:
        asked = {"dataset": "rows", "version": 1, "model": "toy", "model_version": 1, "columns": {"x": "x"}} | making
        told = Predict(**asked)  # type: ignore[arg-type]
        work = self.folder / f"work.{next(self._tries)}"
        work.mkdir(parents=True, exist_ok=True)
        return predict(
            told,
            SourceRows(self.tables, SOURCE, 1, told.split),
            partial(models.load, self.bundle),
            self.bundle,
            TARGET,
            KEY,
            work,
            self.folder / "shards",
            cpus,
            self._keep,
            self.said.append,
        )

    def rows(self) -> list[dict[str, object]]:
        return self.tables.head(TARGET, 1, 10**6).to_pylist()  # type: ignore[no-any-return]

    def expected(self, rows: np.ndarray) -> np.ndarray:
        return oracle(self.bundle, rows)

    def _keep(self, path: Path) -> str:
        self.kept.append(path.read_bytes())
        return digests.of_bytes(self.kept[-1])


__all__ = ["FEATURES", "Desk", "toy_rows", "vectors"]
