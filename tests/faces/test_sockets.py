"""The socket into a task from outside: who is let in before anything is accepted, and what goes through. A real server."""

import contextlib
import functools
import io
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from uvicorn.protocols.utils import ClientDisconnected
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from skyloom.core.errors import Conflict, NotFound, SkyloomError, Unavailable
from skyloom.faces.rest.departures import Departures
from skyloom.ports.channel import Control, Stream
from skyloom.rooms.jobs.model import JobState, Session
from skyloom.rooms.tenancy.model import Role
from skyloom.sdk import tunnel
from skyloom.sdk.client import Client
from skyloom.sdk.http import HttpTransport
from skyloom.sdk.transport import InProcess
from skyloom.sdk.tunnel import Forward, TunnelClosed, open_tunnel, run_inside
from tests.control_plane import ControlPlane

SERVER = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"from inside " + self.path.encode())
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
print(server.server_port, flush=True)
server.serve_forever()
"""
HURRIED = """
import functools, uvicorn
from skyloom.faces.rest import server
from skyloom.settings import Settings
uvicorn.Config = functools.partial(uvicorn.Config, ws_ping_interval=0.5, ws_ping_timeout=0.5)
server.serve(Settings.read())
"""


@pytest.fixture(scope="module")
def cloud(cloud_process: ControlPlane) -> Iterator[Client]:
    with cloud_process.client() as client:
        yield client


def running(cloud: Client, *command: str) -> str:
    job_id = cloud.jobs.run(command, cpus=0.1, memory="128MiB").job.id
    deadline = time.monotonic() + 30
    while cloud.jobs.get(job_id).state is not JobState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return job_id


@pytest.fixture(scope="module")
def job(cloud: Client) -> Iterator[str]:
    job_id = running(cloud, "sleep", "1000")
    yield job_id
    cloud.jobs.cancel(job_id)


@pytest.fixture(scope="module")
def server(cloud: Client) -> Iterator[tuple[str, int]]:
    job_id = running(cloud, "python", "-c", SERVER)
    port = int(next(iter(cloud.jobs.follow(job_id))))
    yield job_id, port
    cloud.jobs.cancel(job_id)


@contextlib.contextmanager
def dial(
    plane: ControlPlane, session: str, token: str, project: str = "default", **headers: str
) -> Iterator[ClientConnection]:
    address = f"{plane.url.replace('http', 'ws')}/v1/projects/{project}/sessions/{session}"
    shown = {"authorization": f"Bearer {token}"} if token else {}
    with connect(address, additional_headers={**shown, **headers}, proxy=None, user_agent_header=None) as opened:
        yield opened


def refused(plane: ControlPlane, session: str, token: str, project: str = "default", **headers: str) -> tuple[int, Any]:
    with pytest.raises(InvalidStatus) as caught, dial(plane, session, token, project, **headers):
        pass
    response = caught.value.response
    return response.status_code, msgspec.json.decode(response.body or b"null")


def said(tunnel_of: Session, cloud: Client, text: bytes = b"") -> tuple[bytes, bytes, Control]:
    output, errors = io.BytesIO(), io.BytesIO()
    source = iter([text])
    with open_tunnel(cloud.transport, tunnel_of) as tunnel:
        end = run_inside(tunnel, lambda: next(source, b""), output, errors)
    return output.getvalue(), errors.getvalue(), end


def test_command_gets_its_input_and_its_streams_come_apart(cloud: Client, job: str) -> None:
    session = cloud.jobs.exec(job, ["sh", "-c", "tr a-z A-Z; echo no >&2; exit 9"])
    assert said(session, cloud, b"hello") == (b"HELLO", b"no\n", Control(exit_code=9))


def test_large_streams_arrive_whole_in_both_directions(cloud: Client, job: str) -> None:
    content = bytes(range(256)) * 20_000
    session = cloud.jobs.exec(job, ["cat"])
    assert said(session, cloud, content) == (content, b"", Control(exit_code=0))


def test_command_that_leaves_a_process_with_its_output_still_ends(cloud: Client, job: str) -> None:
    session = cloud.jobs.exec(job, ["sh", "-c", "sleep 1000 & echo done"])
    assert said(session, cloud)[0] == b"done\n"


def test_session_of_a_command_is_good_once(cloud: Client, job: str, cloud_process: ControlPlane) -> None:
    session = cloud.jobs.exec(job, ["true"])
    said(session, cloud)
    assert refused(cloud_process, session.id, cloud_process.token)[0] == 404


def test_socket_without_or_with_a_wrong_token_is_shut(cloud: Client, job: str, cloud_process: ControlPlane) -> None:
    session = cloud.jobs.exec(job, ["true"])
    for token in ("", "wrong", "sky_task.x.1.0.forged"):
        status, body = refused(cloud_process, session.id, token)
        assert (status, body["category"]) == (401, "unauthenticated")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8470"])
def test_web_page_is_refused_whatever_it_holds(
    cloud: Client, job: str, cloud_process: ControlPlane, origin: str
) -> None:
    session = cloud.jobs.exec(job, ["true"])
    status, body = refused(cloud_process, session.id, cloud_process.token, origin=origin)
    assert (status, body["code"]) == (403, "origin_refused")


def test_foreign_host_name_is_refused(cloud: Client, job: str, cloud_process: ControlPlane) -> None:
    session = cloud.jobs.exec(job, ["true"])
    port = cloud_process.url.rsplit(":", 1)[1]
    address = f"ws://evil.example/v1/projects/default/sessions/{session.id}"
    raw = socket.create_connection(("127.0.0.1", int(port)))
    shown = {"authorization": f"Bearer {cloud_process.token}"}
    with pytest.raises(InvalidStatus) as caught, connect(address, sock=raw, additional_headers=shown):
        pass
    assert caught.value.response.status_code == 421
    raw.close()


def test_session_of_another_token_project_or_nobody_is_absent(
    cloud: Client, job: str, cloud_process: ControlPlane
) -> None:
    session = cloud.jobs.exec(job, ["true"])
    editor = cloud.tokens.create("another", Role.EDITOR).secret
    mine = refused(cloud_process, "nothing", editor)
    theirs = refused(cloud_process, session.id, editor)
    assert theirs[0] == mine[0] == 404
    assert theirs[1]["message"].replace(session.id, "nothing") == mine[1]["message"]
    cloud.projects.create("elsewhere")
    assert refused(cloud_process, session.id, cloud_process.token, "elsewhere")[0] == 404


def test_token_without_the_right_to_run_cannot_open_or_attach(
    cloud: Client, job: str, cloud_process: ControlPlane
) -> None:
    viewer = cloud.tokens.create("viewer-of-jobs", Role.VIEWER).secret
    with Client(HttpTransport(cloud_process.url, viewer, "default")) as looking:
        for ask in (lambda: looking.jobs.exec(job, ["id"]), lambda: looking.jobs.forward(job, 80)):
            with pytest.raises(SkyloomError) as caught:
                ask()
            assert caught.value.code == "right_missing"
    session = cloud.jobs.exec(job, ["true"])
    assert refused(cloud_process, session.id, viewer)[0] == 403


def test_revoked_token_closes_what_it_opened(cloud: Client, job: str, cloud_process: ControlPlane) -> None:
    issued = cloud.tokens.create("short-lived", Role.EDITOR)
    with Client(HttpTransport(cloud_process.url, issued.secret, "default")) as editing:
        session = editing.jobs.exec(job, ["sleep", "1000"])
        with open_tunnel(editing.transport, session) as tunnel:
            cloud.tokens.revoke(issued.token.id)
            frames = list_until_closed(tunnel)
    assert frames and frames[-1][0] is Stream.CONTROL
    assert "revoked" in msgspec.json.decode(frames[-1][1], type=Control).message


def list_until_closed(tunnel: Any) -> list[tuple[Stream, bytes]]:
    found = []
    try:
        for frame in tunnel:
            found.append(frame)
    except TunnelClosed:
        pass
    return found


def test_nonsense_frames_do_no_harm(cloud: Client, job: str, cloud_process: ControlPlane) -> None:
    session = cloud.jobs.exec(job, ["cat"])
    with dial(cloud_process, session.id, cloud_process.token) as opened:
        for frame in (b"", b"\x07nonsense", b"\x03{not json", b'\x03{"size": {"rows": 0}}', b"\x03[]", "text"):
            opened.send(frame)
        opened.send(b"\x00fine")
        assert next(frame for frame in opened if frame) == b"\x01fine"  # an empty one says that somebody is there


def abandoned(plane: ControlPlane, session: Session, content: bytes = b"") -> bytes:
    """Dial, take the first output, send some input, and be gone without a word; returns the output."""
    with contextlib.suppress(ConnectionClosed), dial(plane, session.id, plane.token) as opened:
        first = opened.recv(timeout=20)
        for start in range(0, len(content), 2**16):
            opened.send(b"\x00" + content[start : start + 2**16])
        opened.socket.shutdown(socket.SHUT_RDWR)
        opened.socket.close()
    assert isinstance(first, bytes)
    return first[1:]


def gone(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


def test_client_that_goes_away_ends_its_command_and_harms_no_other_session(
    cloud: Client, job: str, cloud_process: ControlPlane
) -> None:
    for _ in range(10):
        session = cloud.jobs.exec(job, ["sh", "-c", "echo $$; exec yes"])
        assert gone(int(abandoned(cloud_process, session).split()[0]), 20)
        for _ in range(3):  # they get the descriptors that it had
            assert said(cloud.jobs.exec(job, ["echo", "fine"]), cloud) == (b"fine\n", b"", Control(exit_code=0))
    assert "Disconnect" not in cloud_process.log.read_text()


@pytest.mark.slow
def test_client_that_goes_away_is_noticed_while_nobody_takes_its_input(
    cloud: Client, job: str, cloud_process: ControlPlane
) -> None:
    session = cloud.jobs.exec(job, ["sh", "-c", "echo $$; exec sleep 1000"])
    assert gone(int(abandoned(cloud_process, session, bytes(2**20))), 30)


def test_client_whose_input_nobody_takes_for_long_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the interval of pings and the time for their answers, which wait behind that input. What both sides' libraries would do
    by themselves after 20 s each, they would here after half a second."""
    monkeypatch.setattr(tunnel, "connect", functools.partial(connect, ping_interval=0.5, ping_timeout=0.5))
    plane = ControlPlane(tmp_path / "home", program=HURRIED).start().ready()
    try:
        with plane.client() as cloud:
            content = bytes(8 * 2**20)
            session = cloud.jobs.exec(running(cloud, "sleep", "1000"), ["sh", "-c", "sleep 3; wc -c"])
            output, _, end = said(session, cloud, content)
            assert (output.strip(), end) == (str(len(content)).encode(), Control(exit_code=0))
    finally:
        plane.end_everything()


def test_oversized_frame_closes_the_socket_only(cloud: Client, job: str, cloud_process: ControlPlane) -> None:
    session = cloud.jobs.exec(job, ["cat"])
    with dial(cloud_process, session.id, cloud_process.token) as opened:
        opened.send(b"\x00" * (2**20 + 1))
        with pytest.raises(ConnectionClosed):
            while True:
                opened.recv(timeout=20)
    assert said(cloud.jobs.exec(job, ["echo", "alive"]), cloud)[0] == b"alive\n"


def test_only_running_workers_have_an_inside(cloud: Client, job: str) -> None:
    over = cloud.jobs.run(["true"], cpus=0.1, memory="64MiB").job.id
    cloud.jobs.wait(over, timeout_s=30)
    with pytest.raises(Conflict, match="not running"):
        cloud.jobs.exec(over, ["true"])
    with pytest.raises(NotFound, match="has no worker 7"):
        cloud.jobs.exec(job, ["true"], rank=7)
    with pytest.raises(NotFound):
        cloud.jobs.forward("job_nothing", 80)


def test_many_connections_go_through_one_forwarded_port(cloud: Client, server: tuple[str, int]) -> None:
    forward = Forward(cloud, *server)
    told: list[SkyloomError] = []
    thread = threading.Thread(target=forward.serve, args=(told.append,))
    thread.start()
    try:
        answers = [
            httpx.get(f"http://127.0.0.1:{forward.local_port}/{n}", trust_env=False, verify=False, timeout=20).text
            for n in range(20)
        ]
    finally:
        forward.close()
        thread.join(10)
    assert answers == [f"from inside /{n}" for n in range(20)]
    assert told == [] and not thread.is_alive()


def test_port_where_nothing_listens_is_said(cloud: Client, job: str) -> None:
    session = cloud.jobs.forward(job, 1)
    with pytest.raises(NotFound, match="listens on port 1"):
        open_tunnel(cloud.transport, session)


def test_port_of_the_control_plane_itself_is_no_port_of_a_job(
    cloud: Client, job: str, cloud_process: ControlPlane
) -> None:
    session = cloud.jobs.forward(job, int(cloud_process.url.rsplit(":", 1)[1]))
    with pytest.raises(NotFound, match="listens on port"):
        open_tunnel(cloud.transport, session)


def test_taken_local_port_is_said(cloud: Client, server: tuple[str, int]) -> None:
    with pytest.raises(Unavailable, match="cannot be listened on"):
        Forward(cloud, *server, local_port=server[1])


def test_client_without_a_control_plane_has_no_way_in(cloud: Client, job: str) -> None:
    session = cloud.jobs.exec(job, ["true"])
    with pytest.raises(Unavailable):
        open_tunnel(InProcess(None, type("By", (), {"project": "p"})(), None), session)  # type: ignore[arg-type]


def test_audit_says_who_went_inside(cloud: Client, job: str) -> None:
    session = cloud.jobs.exec(job, ["true"])
    assert ("jobs.exec", session.id) in [(entry.operation, entry.subject) for entry in cloud.audit.list(50).items]


def test_client_that_leaves_before_its_answer_is_one_quiet_line() -> None:
    log = logging.getLogger("uvicorn.error")
    departures, kept = Departures(), list[logging.LogRecord]()
    for text, error in (
        ("ASGI callable returned without completing handshake.", None),
        ("Exception", ClientDisconnected()),
    ):
        info = (type(error), error, None) if error else None
        record = log.makeRecord(log.name, logging.ERROR, __file__, 1, text, (), info)
        assert departures.filter(record)
        kept.append(record)
    assert {(one.levelname, one.getMessage(), one.exc_info) for one in kept} == {("INFO", "A client went away.", None)}
    real = log.makeRecord(log.name, logging.ERROR, __file__, 1, "Exception", (), (KeyError, KeyError("x"), None))
    assert departures.filter(real)
    assert (real.levelname, real.exc_info is None) == ("ERROR", False)


def test_log_of_the_control_plane_has_no_error_of_clients_that_left(cloud_process: ControlPlane) -> None:
    before = cloud_process.log.stat().st_size
    place = ("127.0.0.1", int(cloud_process.url.rsplit(":", 1)[1]))
    head = f"GET /v1/projects/default/sessions/session_x HTTP/1.1\r\nHost: {place[0]}:{place[1]}\r\n"
    head += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    deadline = time.monotonic() + 60
    while not (said := cloud_process.log.read_bytes()[before:]):
        assert time.monotonic() < deadline
        with socket.create_connection(place) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets it
            client.sendall(head.encode())
            time.sleep(0.05)  # a reset takes with it what the other side has not read yet
    assert set(said.decode().splitlines()) == {"INFO:     A client went away."}
