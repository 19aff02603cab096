"""The control plane as a process: opens the cloud, binds the port, serves until told to stop."""

import json
import logging
import os
import signal
import socket
import sys
import time

import uvicorn
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from skyloom import __version__
from skyloom.cloud import Embedded, write_private
from skyloom.core.errors import Conflict, InvalidInput, NotPermitted
from skyloom.faces.rest.app import LOOPBACK, make_app
from skyloom.operations import OPERATIONS
from skyloom.settings import Settings


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


def serve(settings: Settings) -> None:
    """Run the control plane until SIGTERM or SIGINT. Raises what `Embedded` and `bind` raise."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    embedded = Embedded(settings)
    try:
        listener = bind(settings.host, settings.port or _last_port(settings))
        embedded.url = f"http://{settings.host}:{listener.getsockname()[1]}"
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        app = make_app(embedded.cloud, embedded.blobs, OPERATIONS, registry=registry)
        embedded.cloud.start()
        _announce(settings, embedded.url)
        config = uvicorn.Config(
            app,
            access_log=False,
            server_header=False,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=5,
            timeout_keep_alive=30,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn stops at these and then raises them again, which must not end us before everything is closed.
            signal.signal(number, lambda _number, _frame: None)
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        (settings.home / "server.json").unlink(missing_ok=True)
        embedded.close()


def _announce(settings: Settings, url: str) -> None:
    about = {"url": url, "pid": os.getpid(), "started_at": time.time(), "version": __version__}
    write_private(settings.home / "server.json", json.dumps(about).encode())
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
