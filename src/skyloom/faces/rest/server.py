"""The control plane as a process: opens the cloud, binds the port, serves until told to stop."""

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from skyloom import __version__
from skyloom.core.errors import Conflict, InvalidInput, NotPermitted
from skyloom.durable import disk_errors, write_private
from skyloom.embedded import Embedded
from skyloom.faces.rest.app import LOOPBACK, make_app
from skyloom.faces.rest.departures import Departures
from skyloom.operations import OPERATIONS
from skyloom.sdk import running
from skyloom.settings import Settings

_ARENA_MAX, _NUM_ARENAS = -8, 2  # glibc's mallopt


class PortInUse(Conflict):
    """Another program listens on the port."""


class PublicAddress(InvalidInput):
    """The embedded control plane listens on loopback only."""


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address of this machine. Raises `PortInUse`, `PublicAddress`, `NotPermitted`."""
    if host not in LOOPBACK:
        raise PublicAddress(
            f"The embedded cloud does not listen on {host!r}: it has no TLS.",
            next_action="Use 127.0.0.1, and a tunnel (ssh -L) to reach it from elsewhere.",
        )
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)  # two that only bind could share the port; of two that listen, one is refused
    except PermissionError as error:
        listener.close()
        raise NotPermitted(
            f"Port {port} may not be used by this user.", next_action="Choose one above 1023."
        ) from error
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"Port {port} is used by another program.",
            next_action="Stop that program, or choose another port: skyloom up --port 0 takes a free one.",
        ) from error
    return listener


class Server(uvicorn.Server):
    """Says when it takes requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def serve(settings: Settings, ready: Callable[[str], None] = lambda _url: None) -> None:
    """Run the control plane until SIGTERM or SIGINT, then close in order. Raises what `Embedded` and `bind` raise.

    Args:
        ready: called once with the address, when requests are taken.
    """
    # What libraries and jobs write below the home folder is its owner's alone too: the database's log, tables, output.
    os.umask(0o077)
    begin_log()
    _share_arenas()
    # The server ends itself with the signal it got; this makes SIGTERM pass through `finally` like Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    with disk_errors(settings.home):
        embedded = Embedded(settings)
    try:
        _run(settings, embedded, ready)
    except KeyboardInterrupt:
        logging.getLogger("skyloom").info("stopped; jobs and endpoints go on running")
    finally:
        (settings.home / "server.json").unlink(missing_ok=True)
        embedded.close()


def _share_arenas() -> None:
    """By itself glibc gives each of our threads an arena of its own, and what one of them lets go of is of no use to the others."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, _NUM_ARENAS)


def begin_log() -> None:
    """What is logged goes to the standard error, from INFO on. Not so what `httpx` asks: a webhook's address may be its secret."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _run(settings: Settings, embedded: Embedded, ready: Callable[[str], None]) -> None:
    listener = bind(settings.host, settings.port or _last_port(settings))
    embedded.url = f"http://{settings.host}:{listener.getsockname()[1]}"
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    app = make_app(
        embedded.cloud,
        embedded.blobs,
        OPERATIONS,
        tables=embedded.tables,
        sessions=embedded.sessions,
        devices=embedded.devices,
        take_call=embedded.triggers.take_call,
        registry=registry,
    )
    embedded.cloud.start()
    config = uvicorn.Config(
        app,
        access_log=False,
        server_header=False,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=5,
        timeout_keep_alive=30,
        ws="websockets-sansio",
        ws_ping_timeout=None,  # an answer waits behind bytes that nobody takes yet; who is slow is not gone
        ws_max_size=2**20,
        ws_per_message_deflate=False,
    )
    logging.getLogger("uvicorn.error").addFilter(Departures())

    def announce() -> None:
        _announce(settings, embedded.url)
        ready(embedded.url)

    Server(config, announce).run(sockets=[listener])


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _announce(settings: Settings, url: str) -> None:
    record = running.announce(url, __version__, time.time())
    write_private(settings.home / "server.json", msgspec.json.encode(record))
    write_private(settings.home / "port", url.rsplit(":", 1)[1].encode())


def _last_port(settings: Settings) -> int:
    """With port 0: the port of the last run, so that running jobs find the control plane again; a free one at first."""
    try:
        port = int((settings.home / "port").read_text())
        bind(settings.host, port).close()
        return port
    except (OSError, ValueError, PortInUse):
        return 0


if __name__ == "__main__":
    serve(Settings.read())
