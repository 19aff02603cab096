"""Programs of torch.export: run as torch runs them, and refused when they hold more than data."""

import io
import json
import os
import pickle
import signal
import time
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from skyloom.inference import runtimes
from skyloom.inference.runtimes.seam import BundleRefused
from skyloom.inference.runtimes.torch_screen import ArchiveUnsafe, screened
from skyloom.rooms.registry.bundle import BundleFile, Datatype, Manifest, RuntimeName, Signature, TensorSpec
from tests.contracts.runtime_contract import RuntimeContract
from tests.inference.services.workplace import listed
from tests.inference.serving import running

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x):
        return torch.softmax(self.layer(x) + self.shift, -1)


@pytest.fixture(scope="module")
def archive() -> bytes:
    torch.manual_seed(0)
    program = torch.export.export(Net().eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    made = io.BytesIO()
    torch.export.save(program, made)
    return made.getvalue()


class TestTorchProgram(RuntimeContract):
    name = RuntimeName.TORCH

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory, archive):
        folder = tmp_path_factory.mktemp("bundle")
        (folder / "model.pt2").write_bytes(archive)
        signature = Signature(
            inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4)),),
            outputs=(TensorSpec(name="softmax", datatype=Datatype.FP32, shape=(-1, 3)),),
        )
        file = BundleFile(path="model.pt2", digest="sha256:" + "0" * 64, size_bytes=1)
        return folder, Manifest(runtime=RuntimeName.TORCH, signature=signature, files=(file,))

    def rows(self, count):
        return np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)

    def expected(self, folder, rows):
        with torch.inference_mode():
            return torch.export.load(folder / "model.pt2").module()(torch.from_numpy(rows)).numpy()


def changed(archive: bytes, name: str, change) -> bytes:
    """The archive with one file changed, or with one more."""
    made, seen = io.BytesIO(), False
    with zipfile.ZipFile(io.BytesIO(archive)) as before, zipfile.ZipFile(made, "w") as after:
        root = before.namelist()[0].partition("/")[0]
        for entry in before.infolist():
            content = before.read(entry)
            if entry.filename == f"{root}/{name}":
                content, seen = change(content), True
            after.writestr(entry.filename, content)
        if not seen:
            after.writestr(f"{root}/{name}", change(b""))
    return made.getvalue()


def swapped(*pairs):
    def change(content: bytes) -> bytes:
        for before, after in pairs:
            assert before.encode() in content
            content = content.replace(before.encode(), after.encode())
        return content

    return change


class Bomb:
    def __reduce__(self):
        return (print, ("this was run",))


def pickled(_: bytes) -> bytes:
    return pickle.dumps(Bomb())


def guarded(content: bytes) -> bytes:
    return json.dumps({**json.loads(content), "guards_code": ["print('this was run')"]}).encode()


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
SYMBOL = "Symbol('s77', positive=True, integer=True)"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (MODEL, swapped((SYMBOL, "__import__('os').getpid()")), "no arithmetic"),
        (MODEL, swapped((SYMBOL, "s77.__class__")), "no arithmetic"),
        (MODEL, swapped((SYMBOL, "print(1)")), "no arithmetic"),
        (MODEL, swapped(("torch.ops.aten.linear.default", "torch.os.system")), "torch.os.system"),
        (MODEL, swapped(("torch.ops.aten.linear.default", "torch.load")), "torch.load"),
        (MODEL, swapped(("torch.ops.aten.linear.default", "torch.ops.aten.from_file.default")), "from_file"),
        (MODEL, swapped(("builtins.dict", "somebody.Else")), "somebody.Else"),
        (WEIGHTS, swapped(('"use_pickle": false', '"use_pickle": true')), "as a pickle"),
        ("data/weights/model.pt", pickled, "no part of a plain program"),
        ("data/constants/opaque_obj_0", pickled, "no part of a plain program"),
        ("data/aotinductor/model/evil.so", pickled, "no part of a plain program"),
        (MODEL, lambda _: b"{", "damaged"),
        (MODEL, lambda _: b'{"in_spec": "{"}', "no program"),
        (WEIGHTS, lambda _: b'{"config": [1]}', "no program"),
        (WEIGHTS, lambda _: b'{"config": {"a": 1}}', "no program"),
    ],
)
def test_archive_that_holds_more_than_data_is_refused(archive, name, change, words) -> None:
    with pytest.raises(ArchiveUnsafe, match=words):
        screened(changed(archive, name, change))


def test_pickles_and_guards_that_come_along_are_never_run(archive, tmp_path, capfd) -> None:
    content = changed(changed(archive, "data/sample_inputs/model.pt", pickled), MODEL, guarded)
    (tmp_path / "model.pt2").write_bytes(content)
    runtime = runtimes.find(RuntimeName.TORCH)
    assert runtime.signature(tmp_path / "model.pt2").inputs[0].name == "x"
    assert "this was run" not in capfd.readouterr().out
    with pytest.raises(BundleRefused, match=r"torch\.os\.system"):
        bad = changed(archive, MODEL, swapped(("torch.ops.aten.linear.default", "torch.os.system")))
        (tmp_path / "model.pt2").write_bytes(bad)
        runtime.signature(tmp_path / "model.pt2")


def test_program_runs_in_a_process_of_its_own_and_the_data_plane_outlives_it(made_bundle) -> None:
    folder, rows, expected = made_bundle
    with running(folder) as (replica, client, _):
        tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}

        def ask():
            return client.post("/v2/models/toy/infer", json={"inputs": [tensor]})

        np.testing.assert_allclose(ask().json()["outputs"][0]["data"], expected.ravel(), rtol=1e-5)
        assert client.get("/v2/models/toy").json()["platform"] == "pytorch_export"
        assert b"torch" not in Path(f"/proc/{replica.process.pid}/maps").read_bytes()
        children = Path(f"/proc/{replica.process.pid}/task/{replica.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        while (answer := ask()).status_code == 200:
            time.sleep(0.01)
        assert answer.status_code in (500, 503)
        assert client.get("/v2/health/live").status_code == 200
        assert client.post("/infer", json={}).status_code in (404, 405)


@pytest.fixture
def made_bundle(archive, tmp_path):
    """A replica's folder with the program as its bundle, some rows, and what torch says of them."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.pt2").write_bytes(archive)
    (bundle / "profile.json").write_bytes(b"{}")
    signature = runtimes.find(RuntimeName.TORCH).signature(bundle / "model.pt2")
    files = tuple(listed(bundle, bundle / name) for name in ("model.pt2", "profile.json"))
    manifest = Manifest(runtime=RuntimeName.TORCH, signature=signature, files=files)
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.export.load(bundle / "model.pt2").module()(torch.from_numpy(rows)).numpy()
    return tmp_path, rows, expected
