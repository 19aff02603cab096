"""``skyloom up``: run the control plane here, or start it in a session of its own and say when it is ready."""

import http.client
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, BinaryIO
from urllib.parse import urlsplit

import msgspec
import typer

from skyloom.cli.frame import AsJson, word
from skyloom.cli.render import show
from skyloom.core.errors import ErrorBody, NotPermitted, SkyloomError, Unavailable, rebuild
from skyloom.durable import disk_errors
from skyloom.sdk.running import ServerRecord, running
from skyloom.settings import Settings

LOG = "control-plane.log"
_LOG_TAIL_BYTES = 2_000

app = word("Start the cloud on this machine.")
Home = Annotated[Path | None, typer.Option("--home", help="Folder of the cloud.  [default: SKYLOOM_HOME, ~/.skyloom]")]


class StartFailed(Unavailable):
    """The control plane ended before it was ready, without saying why."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a control plane in the background tells the one who started it: its record, or why there is none."""

    record: ServerRecord | None = None
    error: ErrorBody | None = None


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What ``up`` says about the control plane."""

    url: str
    folder: str
    token_file: str
    log: str
    pid: int


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it in the background and return.")] = False,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = None,
    home: Home = None,
    as_json: AsJson = False,
    ready_fd: Annotated[int | None, typer.Option("--ready-fd", hidden=True)] = None,
) -> None:
    """Start the cloud on this machine: the control plane, on loopback only, with everything in one folder.

    It says its address, its folder and where its token is. Ctrl-C or `skyloom down` ends it; jobs go on running.
    """
    settings = Settings.read(home=home and home.expanduser().absolute(), port=port)
    if ready_fd is not None:
        _serve_and_report(settings, ready_fd)
    elif detach:
        show(_told(settings.home, _running_or_started(settings)), as_json)
    else:
        _serve(settings, lambda: show(_told(settings.home, _mine(settings.home)), as_json))


def _running_or_started(settings: Settings) -> ServerRecord:
    record = running(settings.home)
    if record is not None and answers(record.url):
        typer.echo("Skyloom is up already.", err=True)
        return record
    return _start(settings)


def _start(settings: Settings) -> ServerRecord:
    """Start the control plane in a session of its own; return when it takes requests. Raises what it raised."""
    log = _open_log(settings.home)
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "skyloom.cli", "up", "--ready-fd", str(theirs)]
    command += ["--home", str(settings.home), "--port", str(settings.port)]
    with log, os.fdopen(ours, "rb") as pipe:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs,),
            start_new_session=True,
        )
        os.close(theirs)
        said = pipe.read()
    if not said:
        raise StartFailed(
            f"The control plane ended with code {child.wait()} before it was ready: {_last_line(settings.home / LOG)}",
            next_action=f"Read {settings.home / LOG}.",
        )
    start = msgspec.json.decode(said, type=Start)
    if start.error is not None:
        child.wait()
        raise rebuild(start.error)
    assert start.record is not None, "one of the two is always there"
    return start.record


def _open_log(home: Path) -> BinaryIO:
    try:
        with disk_errors(home):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            return (home / LOG).open("ab")
    except OSError as error:
        raise NotPermitted(
            f"The data folder {home} cannot be used: {error.strerror}.",
            next_action="Choose another with --home or SKYLOOM_HOME.",
        ) from error


def _serve_and_report(settings: Settings, ready_fd: int) -> None:
    """Serve, and tell the parent once: the record when ready, or the error. The descriptor is closed after that."""
    os.set_inheritable(ready_fd, False)  # a task that inherited it would keep the parent waiting
    with os.fdopen(ready_fd, "wb") as pipe:

        def tell(message: Start) -> None:
            if not pipe.closed:
                pipe.write(msgspec.json.encode(message))
                pipe.close()

        try:
            _serve(settings, lambda: tell(Start(record=_mine(settings.home))))
        except SkyloomError as error:
            tell(Start(error=error.body()))
            raise


def _serve(settings: Settings, ready: Callable[[], None]) -> None:
    from skyloom.faces.rest.server import serve  # only now: the parent of a detached one never needs it

    serve(settings, lambda _url: ready())


def answers(url: str) -> bool:
    """True when a control plane answers at an address."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _mine(home: Path) -> ServerRecord:
    record = running(home)
    assert record is not None, "called when the server has announced itself"
    return record


def _told(home: Path, record: ServerRecord) -> Running:
    return Running(
        url=record.url, folder=str(home), token_file=str(home / "token"), log=str(home / LOG), pid=record.pid
    )


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing."
