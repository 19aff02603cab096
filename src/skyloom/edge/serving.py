"""The serving process: what `keeper` starts, and starts again. Ends with `AGAIN` when another bundle should be served."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.durable import write_private
from skyloom.edge import deployment as rules
from skyloom.edge.agent import Agent, Attempt, try_bundle
from skyloom.edge.bundles import BundleShelf
from skyloom.edge.deployment import Deployment
from skyloom.edge.home import Home, load_deployment
from skyloom.edge.keeper import AGAIN
from skyloom.edge.outbox import DeviceOutbox
from skyloom.edge.station import Station

_PATIENCE_S = 5.0
_BODY = b'{"error":"This device has nothing to serve as yet."}'
_HEAD = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
_NOTHING = f"{_HEAD}content-length: {len(_BODY)}\r\n\r\n".encode() + _BODY


@dataclass(frozen=True)
class EdgeOptions:
    """What the owner of a device says: how often to call, how large the outbox may be, how much to sample."""

    interval_s: float = 30.0
    longest_pause_s: float = 900.0
    outbox_bytes: int = 64 * 2**20
    sample_share: float = 0.0
    threads: int = 1


def serve(home: Home, listeners: Sequence[socket.socket], options: EdgeOptions) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""

    async def until_signal() -> int:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        return await live(home, listeners, options, stopping, try_bundle)

    return asyncio.run(until_signal())


async def live(
    home: Home, listeners: Sequence[socket.socket], options: EdgeOptions, stopping: asyncio.Event, attempt: Attempt
) -> int:
    """One life of a device: serve what its folder names until ``stopping``, or until it should serve something else (`AGAIN`).

    Args:
        attempt: tries a new bundle, away from this process.
    """
    loop, again = asyncio.get_running_loop(), asyncio.Event()

    def switch() -> None:
        again.set()
        stopping.set()

    outbox = DeviceOutbox(home.outbox, options.outbox_bytes)
    now_is = _begin(home)
    station = _station(home, outbox, now_is, options)
    if station is None and now_is.current is not None:  # the next process serves what there is instead
        outbox.close()
        return AGAIN
    agent = Agent(
        home,
        outbox,
        now_is,
        station,
        interval_s=options.interval_s,
        switch=partial(_from_thread, loop, switch),
        say=say,
        attempt=attempt,
        longest_pause_s=options.longest_pause_s,
    )
    servers = [] if station else [await loop.create_server(_Nothing, sock=one) for one in listeners]
    if station and now_is.current:
        await station.open(listeners)
        say(f"serving {now_is.current.model} {now_is.current.label}")
    else:
        say("nothing to serve as yet")
    agent.start()
    sweeping = asyncio.create_task(station.sweep()) if station else None
    await stopping.wait()
    for server in servers:
        server.close()
    if sweeping:
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
    if station:
        await station.close()
    await asyncio.to_thread(agent.close)
    outbox.close()
    return AGAIN if again.is_set() else 0


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(call)


def _begin(home: Home) -> Deployment:
    """Count this start against a bundle on trial, before it can take the process with it."""
    before = load_deployment(home.deployment)
    after = rules.begun(before)
    if after != before:
        write_private(home.deployment, msgspec.json.encode(after))
        if after.current != before.current:
            say(f"went back: {after.message}")
    return after


def _station(home: Home, outbox: DeviceOutbox, now_is: Deployment, options: EdgeOptions) -> Station | None:
    made = now_is.current
    if made is None:
        return None
    try:
        return Station(
            made,
            BundleShelf(home.bundles).path(made),
            home.access_file,
            outbox,
            device=home.read().device,
            threads=options.threads,
            sample_share=options.sample_share,
        )
    except SkyloomError as error:
        say(f"{made.model} {made.label} cannot be served: {error}")
        write_private(home.deployment, msgspec.json.encode(rules.damaged(now_is, str(error))))
        BundleShelf(home.bundles).remove(made)
        return None


def say(text: str) -> None:
    """Tell the operator."""
    print(f"skyloom edge: {text}", file=sys.stderr, flush=True)


class _Nothing(asyncio.Protocol):
    """Answers whoever asks before there is a model, so that nobody waits in vain."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a socket's"
        self._transport = transport
        self._patience = asyncio.get_running_loop().call_later(_PATIENCE_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_NOTHING)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._patience.cancel()
