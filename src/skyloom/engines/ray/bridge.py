"""The process between the control plane and one Ray cluster: ``python -m skyloom.engines.ray.bridge FD``.

Ray allows one connection per process, can block for half a minute and can end the process that it lives in. So each pool has a
process of its own, which holds nothing: when it hangs or dies, it is started again, and no task notices. It ends when the control
plane's end of the socket closes, which the kernel does for a process that is killed.
"""

import concurrent.futures
import os
import queue
import socket
import sys
import threading
import traceback
from typing import Any

import msgspec

from skyloom.core.errors import SkyloomError, Unavailable
from skyloom.engines.ray.wire import BridgeReply, BridgeRequest, Channel, Opening

_NUM_THREADS = 16


def main(descriptor: int) -> int:
    """Connect, then answer requests until the other side is gone."""
    channel = Channel(socket.socket(fileno=descriptor))
    first = channel.receive()
    if first is None:
        return 0
    requests: queue.SimpleQueue[BridgeRequest] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(channel, requests), daemon=True).start()
    cluster = _connect(channel, msgspec.msgpack.decode(first, type=Opening))
    if cluster is None:
        return 1
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as threads:  # a slow node keeps nobody else waiting
        while True:
            threads.submit(_answer, channel, cluster, requests.get())


def _receive(channel: Channel, requests: "queue.SimpleQueue[BridgeRequest]") -> None:
    while (frame := channel.receive()) is not None:
        requests.put(msgspec.msgpack.decode(frame, type=BridgeRequest))
    os._exit(0)  # the control plane is gone, whatever Ray is doing


def _connect(channel: Channel, opening: Opening) -> Any:
    """A `RayCluster`, or None after the other side was told why not."""
    try:
        from skyloom.engines.ray.cluster import RayCluster  # a second, and the only import of Ray in this process

        cluster = RayCluster(opening)
    except SkyloomError as error:
        channel.send(BridgeReply(number=0, error=error.body()))
        return None
    except Exception as error:
        traceback.print_exc()
        why = Unavailable(
            f"The Ray cluster at {opening.address} cannot be used: {type(error).__name__}: {_first_line(error)}.",
            next_action=_hint(opening.address, error),
        )
        channel.send(BridgeReply(number=0, error=why.body()))
        return None
    channel.send(BridgeReply(number=0))
    return cluster


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")[:300]


def _hint(address: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "Install Ray where the control plane runs: pip install 'skyloom[ray]'."
    if not address.startswith("ray://"):
        return "From a machine that is no node of the cluster, use ray://HOST:PORT of its client server."
    return "See bridge.log in the pool's folder."


def _answer(channel: Channel, cluster: Any, request: BridgeRequest) -> None:
    is_sound = True
    try:
        reply = BridgeReply(number=request.number, answer=msgspec.msgpack.encode(cluster.do(request.ask)))
    except SkyloomError as error:
        reply = BridgeReply(number=request.number, error=error.body())
    except Exception as error:
        traceback.print_exc()
        defect = Unavailable(
            f"The connection to Ray failed: {type(error).__name__}: {_first_line(error)}.",
            next_action="It is made again; see bridge.log in the pool's folder.",
        )
        reply, is_sound = BridgeReply(number=request.number, error=defect.body()), False
    try:
        channel.send(reply)
    except OSError:
        os._exit(0)  # the control plane is gone
    if not is_sound:
        os._exit(1)  # nobody knows what Ray's client is in now; a new bridge is


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
