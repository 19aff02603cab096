import msgspec
import pytest

from skyloom.inference import model as models
from skyloom.inference.runtimes.onnx import choose_providers
from skyloom.inference.runtimes.seam import BundleRefused
from skyloom.rooms.registry.bundle import Datatype, Manifest, RuntimeName, TensorSpec
from tests.contracts.runtime_contract import RuntimeContract
from tests.inference.serving import TOY_SIGNATURE, oracle, toy_rows, write_bundle


class TestOnnx(RuntimeContract):
    name = RuntimeName.ONNX

    def bundle(self, folder):
        write_bundle(folder)
        return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)

    def rows(self, count):
        return toy_rows(count)

    def expected(self, folder, rows):
        return oracle(folder, rows)


def test_manifest_of_before_runtimes_had_names_is_onnx() -> None:
    manifest = Manifest(signature=TOY_SIGNATURE, files=({"path": "x", "digest": "sha256:0", "size_bytes": 1},))
    told = msgspec.to_builtins(manifest)
    told["files"] = [{"path": "model.onnx", "digest": "sha256:" + "0" * 64, "size_bytes": 1}]
    del told["runtime"]
    assert msgspec.json.decode(msgspec.json.encode(told), type=Manifest).runtime is RuntimeName.ONNX


def test_gpu_is_used_where_the_build_can_and_refused_where_it_cannot() -> None:
    both = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert choose_providers(0, both) == ["CPUExecutionProvider"]
    assert choose_providers(1, both) == both
    with pytest.raises(BundleRefused, match="onnxruntime-gpu"):
        choose_providers(1, ["CPUExecutionProvider"])


def test_signature_of_another_type_than_the_file_is_refused(tmp_path) -> None:
    wrong = msgspec.structs.replace(
        TOY_SIGNATURE, inputs=(TensorSpec(name="x", datatype=Datatype.FP64, shape=(-1, 4)),)
    )
    write_bundle(tmp_path / "bundle", signature=wrong)
    with pytest.raises(BundleRefused, match="disagree about input 'x'"):
        models.load(tmp_path / "bundle", 1)
