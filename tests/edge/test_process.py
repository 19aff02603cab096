"""The process itself, with no cloud in reach: it serves what its folder names, and goes back when that does not hold."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from skyloom.core import digests
from skyloom.edge.deployment import MAX_STARTS, Deployment, Installed
from skyloom.edge.home import DeviceFile, Home, load_deployment
from skyloom.edge.lane import RecordLane, read_piece
from skyloom.rooms.devices.messages import DeviceOutcome, RingKey, RingNotice
from tests.edge.devices import EdgeProcess, edge, until
from tests.edge.pulling import FrailDisk
from tests.inference.serving import toy_model, write_bundle

RING = RingNotice(project="p", number=1, keys=(RingKey(id="k", public="0" * 64),), signed_by="k", signature="0" * 128)


def place(home: Home, folder: Path, seed: int) -> Installed:
    """Put a bundle where a fetched one lies."""
    bundle = write_bundle(folder, toy_model(seed))
    digest = digests.of_bytes((bundle / "manifest.json").read_bytes())
    made = Installed(version=f"version_{seed}", model="toy", label=str(seed), manifest=digest)
    shutil.copytree(bundle, home.bundles / made.folder)
    return made


@pytest.fixture
def device(tmp_path: Path) -> Iterator[EdgeProcess]:
    """A device whose cloud is gone for good: version 2 is on trial, version 1 has held before."""
    home = Home(tmp_path / "home")
    home.make()
    home.write(DeviceFile(url="http://127.0.0.1:9", project="p", device="dev_1", name="kiosk", token="t", ring=RING))
    one, two = place(home, tmp_path / "v1", 1), place(home, tmp_path / "v2", 2)
    now_is = Deployment(
        current=two, previous=one, number=2, outcome=DeviceOutcome.PROBATION, on_trial=True, probation_s=600.0
    )
    home.deployment.write_bytes(msgspec.json.encode(now_is))
    process = EdgeProcess(home.folder)
    try:
        yield process
    finally:
        process.stop()


def child_of(device: EdgeProcess) -> int:
    assert device.process is not None
    children = Path(f"/proc/{device.process.pid}/task/{device.process.pid}/children").read_text().split()
    return int(children[0]) if children else 0


@pytest.mark.slow
def test_device_without_a_cloud_serves_and_goes_back_from_a_version_that_kills_its_process(device: EdgeProcess) -> None:
    device.start()
    for _ in range(MAX_STARTS):
        until(lambda: device.serves("2"), device.output.read_text)
        os.kill(child_of(device), signal.SIGKILL)
    until(lambda: device.serves("1"), device.output.read_text)
    now_is = load_deployment(device.home / "deployment.json")
    assert (now_is.outcome, now_is.on_trial) == (DeviceOutcome.FAILED, False)
    # The whole machine goes, and comes back: every answer that was given is still on record.
    device.kill()
    lane = RecordLane(device.home / "outbox" / "facts", FrailDisk(), 2**20)
    written = [msgspec.json.decode(payload) for payload in read_piece(lane.readable(), 0, 10_000, 2**24).payloads]
    lane.close()
    assert sum(record["type"] == "predicted" for record in written) == len(device.made)
    assert {record["version"] for record in written if record["type"] == "began"} == {"version_1", "version_2"}
    # Bytes on its disk that changed are never served.
    (device.home / "bundles" / now_is.current.folder / "model.onnx").write_bytes(b"rotten")
    device.start()
    until(lambda: "nothing to serve as yet" in device.output.read_text().splitlines()[-2], device.output.read_text)
    assert device.ask().status_code == 503


def test_edge_words_refuse_what_cannot_be_meant_with_two_lines(tmp_path: Path) -> None:
    for words, code, said in (
        (("run", "--home", str(tmp_path / "no")), 6, "not_joined"),
        (("join", "nonsense", "--url", "http://127.0.0.1:9", "--home", str(tmp_path / "h")), 2, "code_unreadable"),
        (("join", "sky_join.p.dev_1.x", "--url", "ftp://x", "--home", str(tmp_path / "h")), 2, "address_unreadable"),
        (("join", "sky_join.p.dev_1.x", "--url", "http://127.0.0.1:9", "--home", str(tmp_path / "h")), 9, "link_down"),
        (("try", str(tmp_path)), 2, "bundle_refused"),
    ):
        done = edge(*words)
        assert (done.returncode, done.stderr.splitlines()[0].split(":")[0]) == (code, f"error {said}"), done.stderr
        assert "next: " in done.stderr


def test_word_edge_is_there_where_nothing_of_the_terminal_is_installed() -> None:
    code = "import sys; sys.modules['typer'] = None; from skyloom.cli import main; sys.exit(main(sys.argv[1:]))"
    for words, ends, said in (
        (("edge", "status", "--home", "/nowhere"), 6, "not_joined"),
        (("up",), 2, "terminal_missing"),
    ):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.splitlines()[0].split(":")[0]) == (ends, f"error {said}"), done.stderr


def test_edge_process_imports_neither_control_plane_nor_clients() -> None:
    heavy = "pydantic typer rich httpx torch starlette uvicorn sqlite3 grpc pyarrow polars lance cryptography uvloop "
    heavy += (
        "skyloom.sdk skyloom.cloud skyloom.embedded skyloom.faces skyloom.stores skyloom.engines skyloom.operations"
    )
    code = f"import sys, skyloom.edge.serving; print([name for name in {heavy.split()!r} if name in sys.modules])"
    code += "\nprint([name for name in sys.modules if name.startswith('skyloom.rooms') and name.endswith('.service')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
