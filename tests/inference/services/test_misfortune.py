"""What goes wrong in a service's process or with its clients, and is answered all the same."""

import asyncio
import os
import signal
import sys

import msgspec
import numpy as np
import pytest

from skyloom.core.errors import SkyloomError
from skyloom.inference.runtimes.seam import BundleRefused
from skyloom.inference.services import process as processes
from skyloom.inference.services.calls import (
    PendingCall,
    Queueing,
    ServiceFailed,
    ServiceFull,
    ServiceGone,
)
from skyloom.inference.services.frames import MAX_LENT_BYTES, FrameBroken, Lent, lend, take
from skyloom.inference.services.llama import LlamaBatches
from skyloom.inference.services.located import EdgeMismatch, Located
from skyloom.inference.services.process import ServiceProcess
from skyloom.rooms.registry.bundle import Datatype
from skyloom.rooms.registry.services import ServiceMethod, ServiceSpec
from tests.inference.services.workplace import working, write_service
from tests.inference.serving import write_bundle

SOURCE = """
import asyncio, os, sys, threading, time
from collections.abc import Iterator
import skyloom

class Hapless(skyloom.Service):
    @skyloom.endpoint
    def first(self, names: list[str]) -> str:
        return next(iter(names))

    @skyloom.endpoint
    def pour(self, size: int) -> Iterator[bytes]:
        yield b"\\r\\n" * size
        yield b"\\xff"

    @skyloom.endpoint
    def environment(self) -> list[str]:
        return sorted(os.environ)

    @skyloom.endpoint
    def leave(self, code: int) -> None:
        sys.exit(code)

    @skyloom.endpoint
    async def hold(self) -> None:
        time.sleep(30)
"""


@pytest.fixture
def folder(tmp_path):
    tmp_path.joinpath("bundle").mkdir()
    return tmp_path / "bundle"


def test_hapless_endpoints_are_answered(folder, monkeypatch, capfd) -> None:
    monkeypatch.setenv("SKYLOOM_TOKEN_FILE", "/somewhere")
    monkeypatch.setenv("SKYLOOM_TOKEN", "a secret")
    monkeypatch.setenv("MINE", "kept")
    with working(folder, write_service(folder, SOURCE, "Hapless")) as asking:
        failure = asking.call("first", names=[])
        assert isinstance(failure, ServiceFailed) and "StopIteration" in failure.message
        assert asking.call("first", names=["a"]) == "a"
        # Parts are JSON whatever they hold: raw bytes would break events apart.
        assert asking.call("pour", size=1) == ["DQo=", "/w=="]
        known = asking.call("environment")
        assert "MINE" in known and not {"SKYLOOM_TOKEN", "SKYLOOM_TOKEN_FILE"} & set(known)

        left = asking.call("leave", code=3)
        assert isinstance(left, ServiceFailed) and "SystemExit: 3" in left.message
        assert not asking.process.num_restarts


def test_calls_fail_when_a_process_that_is_closed_does_not_end(folder, monkeypatch) -> None:
    monkeypatch.setattr(processes, "_STOP_S", 0.1)

    async def held() -> object:
        manifest = write_service(folder, SOURCE, "Hapless")
        process = ServiceProcess(folder, manifest.service)
        await process.start()
        answers: list[object] = []
        method = next(one for one in process.spec.methods if one.name == "hold")
        process.ask(PendingCall(method, [b"{}"], answers.append))
        await asyncio.sleep(0.05)
        await process.close()
        return answers

    (answer,) = asyncio.run(held())
    assert isinstance(answer, ServiceGone)


def spec() -> ServiceSpec:
    return ServiceSpec(entry="a.py", class_name="A", methods=(ServiceMethod(name="one"),))


def test_call_that_nobody_waits_for_leaves_its_place_in_the_queue() -> None:
    queueing = Queueing(spec(), max_waiting=2, max_waiting_bytes=1_000)
    calls = [PendingCall(spec().methods[0], [b"x" * 10], lambda _: None) for _ in range(5)]
    queueing.add(calls[0])
    list(queueing.next(set()))
    queueing.add(calls[1])
    queueing.add(calls[2])
    with pytest.raises(ServiceFull):
        queueing.add(calls[3])
    assert queueing.give_up(calls[1]) is None
    assert queueing.give_up(calls[1]) is None
    queueing.add(calls[4])
    assert queueing.num_open == 3


def test_call_for_which_no_memory_is_left_is_refused_and_the_next_goes_on(monkeypatch) -> None:
    queueing = Queueing(spec(), max_waiting=5, max_waiting_bytes=2**30)
    answers: list[object] = []
    for size in (200_000, 10):
        queueing.add(PendingCall(spec().methods[0], [b"x" * size], answers.append))

    def full(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "memfd_create", full)
    assert [len(asked.content) for asked in queueing.next(set())] == [10]
    assert isinstance(answers[0], ServiceFull) and "Cannot allocate" in answers[0].message


@pytest.mark.parametrize("size", [0, -1, MAX_LENT_BYTES + 1])
def test_lent_sizes_that_cannot_be_meant_are_refused(size) -> None:
    with pytest.raises(FrameBroken):
        take(Lent(3, size), os.getpid())


def test_pipe_that_is_named_as_memory_is_refused_without_waiting(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        with pytest.raises(FrameBroken):
            take(Lent(file, 10), os.getpid())
    finally:
        os.close(file)


def test_integers_beyond_a_models_type_are_refused(tmp_path) -> None:
    located = Located.load("toy", write_bundle(tmp_path / "bundle"), 1)
    wide = msgspec.structs.replace(located.signature.inputs[0], datatype=Datatype.INT32)
    assert located._fitted(wide, np.array([[1, 2, 3, 4]], np.int64)).dtype == np.int32
    with pytest.raises(EdgeMismatch, match="beyond"):
        located._fitted(wide, np.array([[1, 2, 3, 2**40]], np.int64))


def test_content_that_is_too_large_is_no_answer() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_LENT_BYTES + 1

    with pytest.raises(ValueError, match="one content"):
        lend([Huge()], set())
    assert issubclass(ServiceGone, SkyloomError)


def test_second_start_that_is_not_set_up_in_time_is_ended_and_tried_again(folder, monkeypatch, capfd) -> None:
    with working(folder, write_service(folder, SOURCE, "Hapless")) as asking:
        monkeypatch.setattr(processes, "_SETUP_S", 0.05)

        async def tried_again() -> None:
            os.kill(asking.process.pid, signal.SIGKILL)
            while asking.process.num_restarts < 2:
                await asyncio.sleep(0.02)

        asking.run(asyncio.wait_for(tried_again(), 30))
    assert "it was not set up within 0.05 s" in capfd.readouterr().err


def test_language_model_without_its_library_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(BundleRefused, match=r"skyloom\[llama\]"):
        LlamaBatches(tmp_path / "model.gguf", 1, 0, 0, 1)
