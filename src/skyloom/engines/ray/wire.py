"""What the control plane and its bridge say to each other: length-prefixed msgspec over a socket that has no name.

MessagePack and not JSON, because file contents and task output are bytes. No pickle: what is read is one of the classes below.
"""

import contextlib
import socket
import struct
import threading
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.errors import ErrorBody
from skyloom.core.resources import Resources
from skyloom.ports.engine import GangWish

MAX_FRAME_BYTES = 2**30  # a gang's plans on one node are one frame; files are not in it
_HEADER = struct.Struct(">I")


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame: which cluster, and what its nodes' keepers are told.

    Attributes:
        address: ``ray://host:port`` of a Ray client server, or ``host:port`` of a head whose cluster this machine is a node of.
        token_file: the cluster's token.
        engine_id: names all that is ours in that cluster.
        keeper: a `KeeperPlan`, encoded.
    """

    address: str
    token_file: str
    engine_id: str
    keeper: bytes


class RayNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as Ray lists it. A restarted Ray on the same machine is another node with the same ``machine``."""

    node_id: str
    machine: str
    address: str
    is_alive: bool
    total: Resources
    labels: dict[str, str] = {}
    death: str = ""


class ListNodes(msgspec.Struct, frozen=True, tag="list_nodes"):
    """Answer: a tuple of `RayNode`, dead ones included."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What one task reserves, and on which node; ``node_id`` empty leaves it to Ray."""

    resources: Resources
    node_id: str = ""


class Reserve(msgspec.Struct, frozen=True, kw_only=True, tag="reserve"):
    """Reserve for a gang, all or nothing, under a name; the same name again is the same reservation. Answer: `Reserved`."""

    name: str
    bundles: tuple[Bundle, ...]
    timeout_s: float


class Reserved(msgspec.Struct, frozen=True, kw_only=True):
    """Where a reservation is.

    Attributes:
        node_ids: one for each bundle; empty when the cluster has no room now, and then nothing is reserved.
        gpus: indices on the node, for each bundle.
    """

    node_ids: tuple[str, ...] = ()
    gpus: tuple[tuple[int, ...], ...] = ()


class Release(msgspec.Struct, frozen=True, kw_only=True, tag="release"):
    """Give reservations back; unknown names are ignored. Answer: an empty tuple."""

    names: tuple[str, ...]


class ListReservations(msgspec.Struct, frozen=True, tag="list_reservations"):
    """Answer: the names of all reservations of this engine id."""


class Want(msgspec.Struct, frozen=True, kw_only=True, tag="want"):
    """All that waits now. The bridge holds the wishes, so they end with it. Answer: an empty tuple."""

    wishes: tuple[GangWish, ...]


class KeeperCall(msgspec.Struct, frozen=True, kw_only=True):
    """One question to one node's keeper, encoded."""

    node_id: str
    ask: bytes
    timeout_s: float


class AskKeepers(msgspec.Struct, frozen=True, kw_only=True, tag="ask_keepers"):
    """Ask several keepers at once; keepers that are missing are started. Answer: a `KeeperReply` for each call."""

    calls: tuple[KeeperCall, ...]


class KeeperReply(msgspec.Struct, frozen=True, kw_only=True):
    """A keeper's answer, encoded; or why there is none: it did not answer in time, or its node is gone."""

    answer: bytes | None = None
    silent: str = ""


class ShipFile(msgspec.Struct, frozen=True, kw_only=True, tag="ship_file"):
    """Send a file of the control plane's machine to a node, under the name of an upload. Answer: an empty tuple."""

    node_id: str
    source: str
    upload: str
    timeout_s: float


Ask = ListNodes | Reserve | Release | ListReservations | Want | AskKeepers | ShipFile


class BridgeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A numbered question; answers may come in another order."""

    number: Annotated[int, Meta(ge=1)]
    ask: Ask


class BridgeReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request; number 0 says that the cluster is reached, or why it is not."""

    number: int
    answer: bytes = b""
    error: ErrorBody | None = None


class Channel:
    """One end of the socket. Sending is thread-safe; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()

    def send(self, message: msgspec.Struct) -> None:
        """Send one message. Raises ``OSError`` when nobody is there."""
        content = msgspec.msgpack.encode(message)
        with self._sending:
            self._end.sendall(_HEADER.pack(len(content)) + content)

    def receive(self) -> bytes | None:
        """The next message, encoded; None when the other side is gone, or talks nonsense."""
        header = self._exactly(_HEADER.size)
        if header is None:
            return None
        (length,) = _HEADER.unpack(header)
        return self._exactly(length) if length <= MAX_FRAME_BYTES else None

    def _exactly(self, count: int) -> bytes | None:
        content = bytearray()
        while len(content) < count:
            try:
                chunk = self._end.recv(min(count - len(content), 2**20))
            except OSError:
                return None
            if not chunk:
                return None
            content += chunk
        return bytes(content)

    def close(self) -> None:
        """Wakes the thread that receives, too."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()
