"""LiteRT on a model made by hand: one fully connected layer."""

import msgspec
import numpy as np
import pytest

from skyloom.inference.runtimes.seam import BundleRefused, Grant
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, RuntimeName, Signature, TensorSpec
from tests.contracts.runtime_contract import RuntimeContract

pytest.importorskip("ai_edge_litert")
WEIGHT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
BIAS = np.array([1, 2, 3], np.float32)


def flat_model() -> bytes:
    """``y = x · Wᵀ + b`` as a flatbuffer."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], buffer: int, free: bool = False):
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name, shape, buffer
        made.type = schema.TensorType.FLOAT32
        if free:
            made.shapeSignature = [-1, *shape[1:]]
        return made

    def buffer(content: np.ndarray | None = None):
        made = schema.BufferT()
        made.data = None if content is None else np.frombuffer(content.tobytes(), np.uint8)
        return made

    operator, code = schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", [1, 4], 1, True),
        tensor("W", [3, 4], 2),
        tensor("b", [3], 3),
        tensor("y", [1, 3], 4, True),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [3], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [buffer(), buffer(), buffer(WEIGHT), buffer(BIAS), buffer()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 3)),),
)


class TestLitert(RuntimeContract):
    name = RuntimeName.LITERT

    def bundle(self, folder):
        folder.mkdir()
        (folder / "model.tflite").write_bytes(flat_model())
        file = BundleFile(path="model.tflite", digest="sha256:" + "0" * 64, size_bytes=1)
        return Manifest(runtime=RuntimeName.LITERT, signature=SIGNATURE, files=(file,))

    def rows(self, count):
        return np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)

    def expected(self, folder, rows):
        return rows @ WEIGHT.T + BIAS

    def test_gpu_is_refused_and_never_ignored(self, made) -> None:
        with pytest.raises(BundleRefused, match="runs on cores"):
            self.runtime.load(*made, Grant(1, gpus=1))

    def test_other_tensors_than_the_files_are_told_to_the_comparison(self, made) -> None:
        folder, manifest = made
        wrong = msgspec.structs.replace(
            manifest, signature=Signature(inputs=SIGNATURE.outputs, outputs=SIGNATURE.inputs)
        )
        assert [slot.name for slot in self.runtime.load(folder, wrong, Grant(1)).inputs] == ["x"]
