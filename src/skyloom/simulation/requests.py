"""Reading logs of requests, each as it is published: when a request came and how long answering it took.

- ``arrived_s,service_s``: our own columns; any clock that counts seconds. Without ``service_s``, give a service time.
- ``TIMESTAMP,ContextTokens,GeneratedTokens``: Azure's logs of language models (2023, 2024); tokens become seconds by two speeds.
- ``app,func,end_timestamp,duration``: Azure's log of functions (2021); who came first is known by end less duration.
- Lines of JSON: Skyloom's own request logs; the latency there is the service time.
"""

import calendar
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from skyloom.simulation.trace import Sheet, TraceMissing, TraceUnreadable, open_sheet

OWN = ("arrived_s", "service_s")
LLM = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
FUNCTIONS = ("app", "func", "end_timestamp", "duration")
MAX_REQUESTS = 20_000_000
_MAX_S = 1e10
_MAX_SERVICE_S = 1e6
_MAX_TOKENS = 10_000_000
_MINUTE = len("2023-11-16 18:17")
_MAX_LINE = 100_000


class Speeds(NamedTuple):
    """How long a request takes, where the log does not say.

    Attributes:
        service_s: each; None for what the log says.
        context_per_s, generated_per_s: tokens a second, of logs that count tokens.
    """

    service_s: float | None = None
    context_per_s: float = 5_000.0
    generated_per_s: float = 50.0


class RequestTrace(NamedTuple):
    """Requests in the order in which they came; both arrays are of one length, in seconds. ``services`` are without any waiting."""

    name: str
    arrivals: Sequence[float]
    services: Sequence[float]

    @property
    def begin(self) -> float:
        return self.arrivals[0]


Pairs = Iterator[tuple[float, float]]


def read_requests(paths: Sequence[Path], speeds: Speeds) -> RequestTrace:
    """Read logs, all of them as one. Raises `TraceMissing` and `TraceUnreadable`; the message names line and column."""
    arrivals, services = array("d"), array("d")
    for path in paths:
        with _opened(path, speeds) as pairs:
            for arrived, service in pairs:
                arrivals.append(arrived)
                services.append(service)
                if len(arrivals) > MAX_REQUESTS:
                    raise TraceUnreadable(
                        f"{path.name}: more than {MAX_REQUESTS:,} requests.", next_action="Give a part of the log."
                    )
    name = ", ".join(path.name for path in paths)
    if not arrivals:
        raise TraceUnreadable(f"{name} has no requests.", next_action="Give at least one line below the header.")
    if any(later < earlier for earlier, later in zip(arrivals, memoryview(arrivals)[1:], strict=False)):
        order = sorted(range(len(arrivals)), key=arrivals.__getitem__)
        arrivals = array("d", [arrivals[place] for place in order])
        services = array("d", [services[place] for place in order])
    return RequestTrace(name, arrivals, services)


@contextmanager
def _opened(path: Path, speeds: Speeds) -> Iterator[Pairs]:
    if path.suffix == ".jsonl":
        yield _own_log(path, speeds)
        return
    with open_sheet(path) as sheet:
        columns = tuple(sheet.columns)
        if columns == LLM:
            yield _tokens(sheet, speeds)
        elif columns == FUNCTIONS:
            yield _functions(sheet, speeds)
        else:
            sheet.check_columns(OWN[:1], OWN[1:])
            yield _own(sheet, speeds)


def _own(sheet: Sheet, speeds: Speeds) -> Pairs:
    if "service_s" not in sheet.columns and speeds.service_s is None:
        raise TraceUnreadable(
            f"{sheet.name} does not say how long a request takes.",
            next_action="Add a column service_s, or say it for all: --service 0.2.",
        )
    at = sheet.columns.index("arrived_s")
    took = sheet.columns.index("service_s") if speeds.service_s is None else -1
    for row in sheet.rows():
        service = speeds.service_s
        arrived = _number(sheet, row, at, _MAX_S)
        yield arrived, _number(sheet, row, took, _MAX_SERVICE_S) if service is None else service


def _functions(sheet: Sheet, speeds: Speeds) -> Pairs:
    for row in sheet.rows():
        took = _number(sheet, row, 3, _MAX_SERVICE_S)
        yield _number(sheet, row, 2, _MAX_S) - took, took if speeds.service_s is None else speeds.service_s


def _tokens(sheet: Sheet, speeds: Speeds) -> Pairs:
    minutes: dict[str, float] = {}
    for row in sheet.rows():
        context, generated = _number(sheet, row, 1, _MAX_TOKENS), _number(sheet, row, 2, _MAX_TOKENS)
        text = row[0]
        begin = minutes.get(text[:_MINUTE])
        if begin is None:
            begin = minutes[text[:_MINUTE]] = _minute(sheet, text[:_MINUTE])
            if len(minutes) > 10_000:
                minutes.clear()
        service = speeds.service_s
        if service is None:
            service = context / speeds.context_per_s + generated / speeds.generated_per_s
        yield begin + _second(sheet, text), service


def _number(sheet: Sheet, row: Sequence[str], place: int, high: float) -> float:
    """The quick way for what is right; what is wrong is said by the slow one."""
    try:
        value = float(row[place])
        if 0 <= value <= high and len(row) == len(sheet.columns):
            return value
    except (ValueError, IndexError):
        pass
    return sheet.number(sheet.cells(row), sheet.columns[place], high=high)


def _minute(sheet: Sheet, text: str) -> float:
    try:
        if len(text) != _MINUTE or text[4] + text[7] + text[10] + text[13] not in ("-- :", "--T:"):
            raise ValueError
        year, month, day, hour, minute = (int(text[a:b]) for a, b in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16)))
        if not (1970 <= year <= 2200 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60):
            raise ValueError
    except ValueError:
        raise sheet.wrong(f"{text[:40]!r} is not a time", "TIMESTAMP") from None
    return float(calendar.timegm((year, month, day, hour, minute, 0)))


def _second(sheet: Sheet, text: str) -> float:
    """The seconds of ``2023-11-16 18:17:03.9799600``: of a zone, only UTC may be named."""
    tail = text[_MINUTE:].removesuffix("Z").removesuffix("+00:00")
    try:
        value = float(tail[1:])
        if tail[0] == ":" and tail[1:3].isdigit() and 0 <= value < 61:
            return value
    except (ValueError, IndexError):
        pass
    raise sheet.wrong(f"{text[:40]!r} is not a time", "TIMESTAMP")


class _Line(msgspec.Struct):
    at: float
    latency_us: int


def _own_log(path: Path, speeds: Speeds) -> Pairs:
    decode = msgspec.json.Decoder(_Line).decode
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE):
                number += 1
                try:
                    told = decode(line)
                    took = told.latency_us / 1e6
                    if not (0 <= took <= _MAX_SERVICE_S and took <= told.at <= _MAX_S):
                        raise ValueError("its time or its latency cannot be")
                except (msgspec.MsgspecError, ValueError) as error:
                    raise TraceUnreadable(
                        f"{path.name}, line {number}: {error}.", next_action="Give a request log of Skyloom."
                    ) from error
                yield told.at - took, took if speeds.service_s is None else speeds.service_s
    except OSError as error:
        raise TraceMissing(
            f"{path} cannot be read: {error.strerror or error}.", next_action="Check the path and its rights."
        ) from error
