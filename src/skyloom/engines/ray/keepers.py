"""Questions to the keepers of nodes, typed; and the nodes themselves, as Ray lists them."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from skyloom import __version__
from skyloom.core.errors import Unavailable, rebuild
from skyloom.engines.ray.asks import Greet, Greeting, KeeperAnswer, KeeperAsk
from skyloom.engines.ray.link import ANSWER_S, Questions
from skyloom.engines.ray.nodes import Nodes
from skyloom.engines.ray.wire import AskKeepers, KeeperCall, KeeperReply, ListNodes, RayNode

T = TypeVar("T")
_KEEPER_S = 6.0
_LIST_AGAIN_S = 0.5
_AGAIN_S = 1.0


class Keepers:
    """All keepers of one cluster. Thread-safe.

    Args:
        met: called with a node and its greeting when it is first spoken to.
    """

    def __init__(self, link: Questions, met: Callable[[RayNode, Greeting], None]) -> None:
        self._link = link
        self._met = met
        self._lock = threading.Lock()
        self._nodes = Nodes()
        self._listed = 0.0
        self._greetings: dict[str, Greeting] = {}
        self._silent: set[str] = set()  # did not answer the last time: nobody waits long for them again

    def nodes(self, *, fresh: bool = False) -> Nodes:
        """The nodes, at most half a second old. Raises `Unavailable`."""
        deadline = time.monotonic() + ANSWER_S
        if not self._lock.acquire(timeout=ANSWER_S):  # somebody else waits for the same list
            raise Unavailable("The Ray cluster does not answer.", next_action="It is tried again.")
        try:
            if fresh or not self._listed or time.monotonic() > self._listed + _LIST_AGAIN_S:
                listed = self._link.ask(ListNodes(), tuple[RayNode, ...], deadline - time.monotonic())
                self._listed = time.monotonic()
                self._nodes.update(listed, self._listed)
            return self._nodes
        finally:
            self._lock.release()

    def greet(self, node_ids: Sequence[str], *, again: bool = False) -> dict[str, Greeting]:
        """Make sure of keepers: each answered once, or does ``again``, and has our version. Raises `Unavailable` that names the node."""
        self.nodes()  # for their names
        new = [node_id for node_id in node_ids if again or node_id not in self._greetings]
        for node_id, answer in self.ask_all({node_id: Greet() for node_id in new}, Greeting).items():
            greeting = self._sure(node_id, answer)
            if greeting.version != __version__:
                raise Unavailable(
                    f"{self.name(node_id)} has Skyloom {greeting.version}, the control plane has {__version__}.",
                    next_action="Install the same version on all nodes of the cluster and restart Ray there.",
                )
            node = self._nodes.get(node_id)
            if node is not None:
                self._met(node, greeting)
            self._greetings[node_id] = greeting
        return {node_id: self._greetings[node_id] for node_id in node_ids}

    def ask(self, node_id: str, question: KeeperAsk, kind: Any, timeout_s: float = _KEEPER_S) -> Any:
        """Ask one. Raises `Unavailable` when it is silent, and whatever it raised."""
        return self._sure(node_id, self.ask_all({node_id: question}, kind, timeout_s)[node_id])

    def ask_all(self, questions: Mapping[str, KeeperAsk], kind: Any, timeout_s: float = _KEEPER_S) -> dict[str, Any]:
        """Ask several at once: node id → answer, or the exception that stands for none. Raises `Unavailable` for the cluster."""
        if not questions:
            return {}
        calls = tuple(
            KeeperCall(
                node_id=node_id,
                ask=msgspec.msgpack.encode(question),
                timeout_s=_AGAIN_S if node_id in self._silent else timeout_s,
            )
            for node_id, question in questions.items()
        )
        replies = self._link.ask(AskKeepers(calls=calls), tuple[KeeperReply, ...], timeout_s + 3.0)
        for node_id, reply in zip(questions, replies, strict=True):
            (self._silent.add if reply.answer is None else self._silent.discard)(node_id)
        return {node_id: self._read(node_id, reply, kind) for node_id, reply in zip(questions, replies, strict=True)}

    def _read(self, node_id: str, reply: KeeperReply, kind: Any) -> Any:
        if reply.answer is None:
            return Unavailable(
                f"{self.name(node_id)} is silent: {reply.silent}.",
                next_action="Ray is asked until it answers or is listed as dead.",
            )
        answer = msgspec.msgpack.decode(reply.answer, type=KeeperAnswer)
        if answer.error is not None:
            return rebuild(answer.error)
        return msgspec.msgpack.decode(answer.content, type=kind)

    def _sure(self, node_id: str, answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def name(self, node_id: str) -> str:
        """A node for people."""
        node = self._nodes.get(node_id)
        return f"node {node.machine}" if node else f"node {node_id[:8]}"
