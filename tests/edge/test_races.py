"""Two that use one folder, or one that is stopped, at the moments where it hurts."""

import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest

from skyloom.edge import agent as agents
from skyloom.edge import home as homes
from skyloom.edge import keeper
from skyloom.edge.__main__ import main
from skyloom.edge.agent import JoinedAnew, SmokeFailed, SmokeInterrupted, try_bundle
from skyloom.edge.home import DeviceFile, Home
from skyloom.edge.link import CloudLink
from skyloom.edge.looking import status_of
from skyloom.rooms.devices.messages import Assignment, DeviceIdentity, DeviceOrders
from tests.edge.test_agent import agent_of
from tests.edge.test_process import RING

FILE = DeviceFile(url="http://127.0.0.1:9", project="p", device="dev_1", name="kiosk", token="t", ring=RING)
NEWER = msgspec.structs.replace(RING, number=2)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    made.write(FILE)
    return made


def test_segment_that_goes_while_status_counts_is_not_counted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = home.outbox / "facts"
    lane.mkdir(parents=True)
    for name, size in (("1.seg", 3), ("2.seg", 5)):
        (lane / name).write_bytes(b"x" * size)
    plain = Path.stat

    def stat(self: Path, **more: bool) -> os.stat_result:
        if self.name == "1.seg":
            raise FileNotFoundError(self)  # the cloud took it between the look into the folder and this one
        return plain(self, **more)

    monkeypatch.setattr(Path, "stat", stat)
    assert msgspec.json.decode(status_of(home, as_json=True))["outbox_bytes"] == 5


def test_ports_are_replaced_whole_so_status_never_reads_half_of_them(home: Home) -> None:
    home.write_ports([8471, 8472])
    before = (home.folder / "ports").stat().st_ino
    home.write_ports([9471])
    assert home.ports() == "9471" and (home.folder / "ports").stat().st_ino != before


def test_second_run_in_one_folder_is_refused_before_it_writes_anything(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = Home(home.folder)
    holder.hold()
    home.token_file.unlink()  # the other one is about to make it
    assert main(["run", "--home", str(home.folder), "--port", "0", "--grpc-port", "-1"]) == 6
    assert "home_in_use" in capsys.readouterr().err and not home.token_file.exists()
    os.close(holder._lock or 0)


def test_device_that_is_joined_anew_while_it_calls_keeps_its_new_identity(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = msgspec.structs.replace(FILE, device="dev_2", token="new")

    def ask(_link: CloudLink, _ask: object, fields: object = None) -> DeviceOrders:
        home.write(fresh)  # `edge join --again`, while the answer was on its way
        return DeviceOrders(now=1.0, interval_s=1.0, assignment=Assignment(number=0))

    monkeypatch.setattr(CloudLink, "ask", ask)
    monkeypatch.setattr(agents, "follow", lambda *_: NEWER)
    agent = agent_of(home)
    assert not agent._call() and home.read() == fresh
    with pytest.raises(JoinedAnew):
        agent._learn(FILE, DeviceOrders(now=1.0, interval_s=1.0, assignment=Assignment(number=0)))
    kept = agent._learn(fresh, DeviceOrders(now=1.0, interval_s=1.0, assignment=Assignment(number=0)))
    assert kept.ring == NEWER == home.read().ring
    agent._outbox.close()


def test_of_two_that_join_one_folder_at_once_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, both = [], threading.Barrier(2)
    identity = DeviceIdentity(project="p", device="dev_1", name="kiosk", token="t", rings=(RING,))

    def ask(_link: CloudLink, ask: object, fields: object = None) -> DeviceIdentity:
        asked.append(ask)
        return identity

    monkeypatch.setattr(CloudLink, "ask", ask)
    monkeypatch.setattr(homes, "follow", lambda *_: RING)
    ends: list[str] = []

    def join() -> None:
        both.wait(10)
        try:
            Home(tmp_path / "h").join("sky_join.p.dev_1.x", "http://127.0.0.1:9")
            ends.append("joined")
        except homes.JoinedAlready:
            ends.append("refused")

    threads = [threading.Thread(target=join) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (sorted(ends), len(asked)) == (["joined", "refused"], 1)


@pytest.mark.parametrize(
    ("code", "error"), [(-15, SmokeInterrupted), (-2, SmokeInterrupted), (-9, SmokeFailed), (1, SmokeFailed)]
)
def test_first_test_that_is_ended_with_the_device_says_nothing_about_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    program = tmp_path / "python"
    body = f"kill -{-code} $$" if code < 0 else f"exit {code}"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o700)
    monkeypatch.setattr(agents.sys, "executable", str(program))
    with pytest.raises(error):
        try_bundle(tmp_path, "")


def test_version_whose_first_test_is_interrupted_is_tried_again_and_not_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_bundle: Path, _manifest: str) -> None:
        raise SmokeInterrupted("stopped", next_action="")

    told = Assignment(number=1, model="m", label="2", manifest="sha256:" + "0" * 64)
    agent = agent_of(home)
    agent._attempt = interrupted
    monkeypatch.setattr(
        agent._shelf,
        "fetch",
        lambda *_: agents.rules.Installed(version="v", model="m", label="2", manifest=told.manifest),
    )
    before = agent._deployment
    with pytest.raises(SmokeInterrupted):
        agent._install(CloudLink("http://127.0.0.1:9", "p", "t"), FILE, told)
    assert agent._deployment == before and agent._tries == 0
    agent._outbox.close()


def test_stop_that_comes_when_the_child_has_just_ended_is_a_stop_and_no_failure() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        stop = keeper._Stop()
        stop.child = child  # it is gone, and nobody has written that down
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


def test_key_at_the_terminal_before_the_child_listens_for_it_is_an_orderly_end() -> None:
    """Both get SIGINT; the child has not yet said what to do with it."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def serve() -> int:
        os.kill(os.getppid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
        return 1

    try:
        assert keeper.keep(serve) == 0
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
