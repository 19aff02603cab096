"""Batch prediction against a plain loop: ``python -m benchmarks.batch_predict``.

The loop has the rows in memory, the model in ONNX Runtime on all cores, and the best of several batch sizes; it writes nothing. Beside
it stands the program of a job: rows from a table, the same model verified and loaded as a replica does, ranges on disk as they are done,
and at the end a committed dataset version. In turns, medians. ``predicting`` is the program without its measure and its last step, which
describes, digests and commits. The last column is CPU time of the loop over that of the whole program: it holds on a busy machine too.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from skyloom.core import digests
from skyloom.inference import model as models
from skyloom.recipes.batch.predicting import SourceRows, predict
from skyloom.rooms.data.making import Predict
from skyloom.rooms.monitoring.model import Profile
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, ModelKind, Signature, TensorSpec
from skyloom.tables.lance import LanceTables

_BATCHES = (1, 8, 32, 128, 512, 2_048)
_RATE = re.compile(r"([\d,]+) rows/s \(")


def perceptron(random: np.random.Generator) -> tuple[onnx.ModelProto, tuple[int, ...], np.dtype]:
    """64 numbers, two hidden layers of 512."""
    nodes, constants, before = [], [], "x"
    sizes = (64, 512, 512, 10)
    for place, (wide, narrow) in enumerate(pairwise(sizes)):
        weight = random.normal(size=(wide, narrow)).astype(np.float32) / 8
        constants.append(numpy_helper.from_array(weight, f"w{place}"))
        nodes += [helper.make_node("MatMul", [before, f"w{place}"], [f"h{place}"])]
        nodes += [helper.make_node("Relu", [f"h{place}"], [f"a{place}"])]
        before = f"a{place}"
    nodes.append(helper.make_node("Softmax", [before], ["scores"], axis=1))
    return _model(nodes, constants, (64,), TensorProto.FLOAT), (64,), np.dtype(np.float32)


def convolutions(random: np.random.Generator) -> tuple[onnx.ModelProto, tuple[int, ...], np.dtype]:
    """A picture of 3 x 64 x 64 bytes, three convolutions."""
    nodes = [helper.make_node("Cast", ["x"], ["c0"], to=TensorProto.FLOAT)]
    constants, before, channels = [], "c0", 3
    for place, wide in enumerate((16, 32, 64)):
        weight = random.normal(size=(wide, channels, 3, 3)).astype(np.float32) / 16
        constants.append(numpy_helper.from_array(weight, f"k{place}"))
        conv = helper.make_node("Conv", [before, f"k{place}"], [f"v{place}"], strides=[2, 2], pads=[1, 1, 1, 1])
        nodes += [conv, helper.make_node("Relu", [f"v{place}"], [f"r{place}"])]
        before, channels = f"r{place}", wide
    nodes.append(helper.make_node("GlobalAveragePool", [before], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    constants.append(numpy_helper.from_array(random.normal(size=(64, 10)).astype(np.float32), "w"))
    nodes += [
        helper.make_node("MatMul", ["flat", "w"], ["raw"]),
        helper.make_node("Softmax", ["raw"], ["scores"], axis=1),
    ]
    return _model(nodes, constants, (3, 64, 64), TensorProto.UINT8), (3, 64, 64), np.dtype(np.uint8)


def _model(nodes: list, constants: list, tail: tuple[int, ...], kind: int) -> onnx.ModelProto:
    taken = helper.make_tensor_value_info("x", kind, ["batch", *tail])
    given = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "bench", [taken], [given], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class Case:
    """One model, its rows in memory and in a table."""

    def __init__(self, folder: Path, make: Callable, rows: int) -> None:
        random = np.random.default_rng(0)
        model, tail, kind = make(random)
        self.name, self.folder, self.count = make.__name__, folder, rows
        size = (rows, *tail)
        self.rows = random.integers(0, 255, size, dtype=np.uint8) if kind == np.uint8 else random.normal(size=size)
        self.rows = np.ascontiguousarray(self.rows.astype(kind))
        self.bundle = _bundle(folder / "bundle", model, tail, kind)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(self.rows.reshape(-1)), int(np.prod(tail)))
        shape = {b"shape": json.dumps(tail).encode()}
        table = pa.Table.from_arrays(
            [flat], schema=pa.schema([pa.field("x", flat.type, nullable=False, metadata=shape)])
        )
        self.tables = LanceTables(folder / "tables")
        self.tables.write("p/rows", table.to_reader(8_192), base=None, key="rows")

    def loop(self, batch: int, threads: int) -> tuple[float, float]:
        """Rows per second of the plain loop, and its CPU seconds."""
        model = models.load(self.bundle, threads)
        model.run([self.rows[:batch]])
        begun, used = time.perf_counter(), time.process_time()
        for start in range(0, self.count, batch):
            model.run([self.rows[start : start + batch]])
        return self.count / (time.perf_counter() - begun), time.process_time() - used

    def best(self, cores: int) -> int:
        """The batch size at which a few rows go fastest."""
        some = Case.__new__(Case)
        some.__dict__ |= {**self.__dict__, "count": min(self.count, max(2_048, self.count // 20))}
        return max(_BATCHES, key=lambda batch: some.loop(batch, cores)[0])

    def program(self, cores: int, number: int) -> tuple[float, float, float]:
        """Rows per second of the program (predicting only, and all of it), and its CPU seconds."""
        work, said = self.folder / f"work.{number}", []
        work.mkdir()
        begun, used = time.perf_counter(), time.process_time()
        _, contents = predict(
            Predict(dataset="rows", version=1, model="m", model_version=1, columns={"x": "x"}),
            SourceRows(self.tables, "p/rows", 1),
            partial(models.load, self.bundle),
            self.bundle,
            "p/said",
            f"try-{number}",
            work,
            work / "ranges",
            cores,
            lambda _: "",
            said.append,
        )
        whole, used = self.count / (time.perf_counter() - begun), time.process_time() - used
        shutil.rmtree(work)
        found = _RATE.search(contents.reports[0].notes[0])
        assert found is not None and contents.num_rows == self.count
        return float(found[1].replace(",", "")), whole, used


def _bundle(folder: Path, model: onnx.ModelProto, tail: tuple[int, ...], kind: np.dtype) -> Path:
    import msgspec

    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "profile.json").write_bytes(msgspec.json.encode(Profile()))
    files = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        files.append(BundleFile(path=path.name, digest=digests.of_bytes(content), size_bytes=len(content)))
    datatype = Datatype.UINT8 if kind == np.uint8 else Datatype.FP32
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype=datatype, shape=(-1, *tail)),),
        outputs=(TensorSpec(name="scores", datatype=Datatype.FP32, shape=(-1, 10)),),
    )
    manifest = Manifest(kind=ModelKind.CLASSIFICATION, signature=signature, files=tuple(files))
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer rows")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    print(
        f"{'model':<14}{'rows':>9}{'loop rows/s':>14}{'predicting':>12}{'ratio':>7}{'whole':>12}{'ratio':>7}{'CPU':>7}"
    )
    for make, rows in ((perceptron, 400_000), (convolutions, 20_000)):
        with tempfile.TemporaryDirectory() as folder:
            case = Case(Path(folder), make, int(rows * asked.scale))
            batch = case.best(asked.cores)
            rounds = [(*case.loop(batch, asked.cores), *case.program(asked.cores, n)) for n in range(asked.rounds)]
            loop, _, predicting, whole, _ = (statistics.median(figures) for figures in zip(*rounds, strict=True))
            inner, outer = (statistics.median(r[n] / r[0] for r in rounds) for n in (2, 3))
            spent = statistics.median(r[1] / r[4] for r in rounds)
            print(
                f"{case.name:<14}{case.count:>9,}{loop:>14,.0f}{predicting:>12,.0f}{inner:>7.2f}{whole:>12,.0f}{outer:>7.2f}{spent:>7.2f}",
                f"  (loop: {batch} rows at once)",
            )


if __name__ == "__main__":
    main()
