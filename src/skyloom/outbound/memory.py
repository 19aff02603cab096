"""An outside for tests: it keeps what it was sent and answers what it is told to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from skyloom.core.errors import Unavailable
from skyloom.ports.outbound import AddressRefused


@dataclass(frozen=True)
class Sent:
    """One request that arrived."""

    url: str
    body: bytes
    headers: Mapping[str, str]


@dataclass
class MemoryOutbound:
    """An `Outbound` without a network. ``answers`` are used up one by one, 0 meaning no answer; then everything is taken."""

    answers: list[int] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    refused: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()

    def check(self, url: str) -> None:
        if url in self.refused:
            raise AddressRefused(f"{url!r} cannot be sent to.", next_action="Give another.")
        if url in self.unknown:
            raise Unavailable(f"The name in {url} is not known.", next_action="Correct the address.")

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
        self.check(url)
        answer = self.answers.pop(0) if self.answers else 200
        if not answer:
            raise Unavailable(f"{url} does not answer.", next_action="It is tried again by itself.")
        self.sent.append(Sent(url, body, dict(headers)))
        return answer
