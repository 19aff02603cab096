"""What a command asks for, held to the bounds of its operation before it is sent; what is wrong is told in the words of options.

The control plane holds everything to the same bounds, but knows fields, not options.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from skyloom.cli.values import UnreadableOption
from skyloom.cli.wording import human, label
from skyloom.core.operation import Operation
from skyloom.sdk.transport import Transport

A = TypeVar("A")

# Fields that are called otherwise on the command line; the rest is told by its own words.
_OPTIONS = {
    "deadline_s": "--deadline",
    "deadline_at": "--deadline",
    "expected_duration_s": "--expected",
    "max_duration_s": "--max-duration",
    "grace_s": "--grace",
    "max_retries": "--retries",
    "priority": "--priority",
    "num_workers": "--workers",
    "weight": "--weight",
    "las_limits_gpu_s": "--las-limits",
    "min_run_s": "--min-run",
    "half_life_s": "--half-life",
    "url": "The URL",
}
_FORMS = {"url": "has to be an http:// or https:// address"}
_BOUND = re.compile(r"Expected `\w+` (?P<length>of length )?(?P<sign>>=|<=|>|<) (?P<limit>[\d.e+-]+)")
_SIGNS = {">=": "{} or more", "<=": "{} or less", ">": "more than {}", "<": "less than {}"}


class CheckedTransport:
    """A transport that sends only what its operation allows."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.project, self.url, self.token = inner.project, inner.url, inner.token
        self.patience_s = inner.patience_s

    def send(self, ask: Operation[A], key: str | None = None) -> A:
        check(ask)
        return self._inner.send(ask, key)

    def upload(self, chunks: Callable[[], Iterable[bytes]], digest: str) -> None:
        self._inner.upload(chunks, digest)

    def download(self, digest: str) -> Iterator[bytes]:
        return self._inner.download(digest)

    def close(self) -> None:
        self._inner.close()


def check(ask: Operation[A]) -> None:
    """Raise `UnreadableOption` for a change with a value outside of its bounds. What only looks, the control plane answers."""
    if not ask.route.has_body:
        return
    try:
        msgspec.convert(msgspec.to_builtins(ask, str_keys=True), type(ask), str_keys=True)
    except msgspec.ValidationError as error:
        finding, _, path = str(error).rpartition(" - at ")
        names = re.findall(r"\.(\w+)", path)
        if names and names[0] not in ask.route.path_fields:
            what = _OPTIONS.get(names[-1]) or f"The {label(names[-1])}"
            raise UnreadableOption(
                f"{what} {_worded(names[-1], finding)}.",
                next_action="Give another: --help of the command describes it.",
            ) from None


def _worded(field: str, finding: str) -> str:
    """What a value has to be: ``has to be more than 0 s``."""
    if field in _FORMS:
        return _FORMS[field]
    bound = _BOUND.match(finding)
    if field == "name" and "regex" in finding:
        return "has to be lower-case letters, digits, '-', '_' and '.'"
    if bound is None:
        return "has characters that it may not have" if "regex" in finding else "is not of the kind that it has to be"
    if bound["length"]:
        least = bound["limit"] == "1" and bound["sign"] == ">="
        return "is empty" if least else f"has to be {_SIGNS[bound['sign']].format(bound['limit'])} long"
    limit = float(bound["limit"])
    return f"has to be {_SIGNS[bound['sign']].format(human(field, int(limit) if limit.is_integer() else limit))}"
