"""Prediction ids: a name that says where its line in the request log is.

``pred_`` + the replica's 26 characters + ``_`` + the byte offset of its line in that replica's log, in base 32. So a reader needs no
index: the replica names the endpoint, the revision and the files, the offset names the file and the line. A log is cut into segments,
each named by the offset of its first byte; offsets go on through all of them, so ids mean the same when the oldest are removed.
Pure: reads no file.
"""

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.core.ids import ALPHABET

REPLICA_PREFIX = "rep"
MAX_OUTPUT_BYTES = 1_024
MAX_LINE_BYTES = 8_192
_SEGMENT = re.compile(r"([0-9a-z_]+)(?:\.([1-9][0-9]{0,17}))?\.jsonl\Z")
_REPLICA = re.compile(r"[0-9a-z]{1,26}\Z")  # it becomes a file name: nothing else may pass
_PAIRS = [one + other for one in ALPHABET for other in ALPHABET]


class PredictionIdUnreadable(InvalidInput):
    """The text is not a prediction id."""


class PredictionMissing(NotFound):
    """The request log has no such prediction."""


class PredictionExpired(NotFound):
    """The request log no longer reaches back so far."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the request log.

    Attributes:
        cached_from: the prediction whose answer was given again; the model was not asked.
        version: id of the model version that made it, where that is a guest's; else it is the revision's.
        at: Unix seconds when the answer was ready.
        latency_us: from the whole request read to the answer ready, in microseconds.
        status: 200, or 5xx when the model failed.
        client_id: the id that the client gave its request.
        outputs: the tensors answered, as in the Open Inference Protocol, when they are at most 1 kB; else null.
    """

    prediction_id: str
    at: float
    revision: str
    rows: int
    latency_us: int
    status: int = 200
    client_id: Annotated[str, Meta(max_length=200)] = ""
    version: Annotated[str, Meta(max_length=120)] = ""
    cached_from: Annotated[str, Meta(max_length=200)] = ""
    outputs: msgspec.Raw


def log_name(replica: str, start: int = 0) -> str:
    """File name of the segment of a replica's request log that begins at byte ``start`` of the log."""
    return f"{replica}.{start}.jsonl" if start else f"{replica}.jsonl"


def segment_of(name: str) -> tuple[str, int] | None:
    """The replica and the first byte of the segment that a file of this name is; None for other files."""
    found = _SEGMENT.match(name)
    return (found[1], int(found[2] or 0)) if found else None


def starts_of(replica: str, names: Iterable[str]) -> list[int]:
    """Where the segments of a replica's log begin, oldest first, of all the names in a folder."""
    found = (segment_of(name) for name in names if name.startswith(f"{replica}."))
    return sorted(one[1] for one in found if one is not None and one[0] == replica)


def name_prediction(replica: str, offset: int) -> str:
    """The id of the prediction whose line starts at byte ``offset`` of the replica's log."""
    digits = ""
    while offset or not digits:
        digits = ALPHABET[offset & 31] + digits
        offset >>= 5
    return f"pred_{replica.rpartition('_')[2]}_{digits}"


class PredictionNames:
    """`name_prediction` for one replica, whose offsets grow: what many of them begin with is made once."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._high = 0
        self._beginning = ""

    def name(self, offset: int) -> str:
        """The id of the prediction whose line starts at byte ``offset``."""
        high, low = offset >> 10, offset & 1_023
        if not high:
            return name_prediction(self._replica, offset)
        if high != self._high:
            self._high, self._beginning = high, name_prediction(self._replica, high)
        return self._beginning + _PAIRS[low]


def locate(prediction_id: str) -> tuple[str, int]:
    """Return (replica id, byte offset). Raises `PredictionIdUnreadable`."""
    parts = prediction_id.split("_")
    if len(parts) != 3 or parts[0] != "pred" or not _REPLICA.match(parts[1]) or not 1 <= len(parts[2]) <= 12:
        raise _unreadable(prediction_id)
    offset = 0
    for character in parts[2]:
        digit = ALPHABET.find(character)
        if digit < 0:
            raise _unreadable(prediction_id)
        offset = offset << 5 | digit
    return f"{REPLICA_PREFIX}_{parts[1]}", offset


def read_line(prediction_id: str, content: bytes) -> Prediction:
    """Read the line that starts ``content``. Raises `PredictionMissing` when it is another one or none."""
    line = content.partition(b"\n")[0]
    try:
        prediction = msgspec.json.decode(line, type=Prediction)
    except msgspec.MsgspecError:
        prediction = None
    if prediction is None or prediction.prediction_id != prediction_id:
        raise missing(prediction_id)
    return prediction


def missing(prediction_id: str) -> PredictionMissing:
    """The one answer for a prediction that was never made and for somebody else's."""
    return PredictionMissing(
        f"No prediction {prediction_id} is in the request log.",
        next_action="Check the id: it stands in the answer's skyloom-prediction-id.",
    )


def expired(prediction_id: str, endpoint: str, revision: int, revision_id: str) -> PredictionExpired:
    """The answer for a place in a log whose segment was removed. What made it is still known."""
    return PredictionExpired(
        f"Prediction {prediction_id} has expired: the request log of revision {revision} of {endpoint} no longer reaches back so far.",
        next_action=f"Follow what made it: skyloom lineage {revision_id}. How long logs are kept is SKYLOOM_REQUEST_LOG_DAYS.",
    )


def _unreadable(prediction_id: str) -> PredictionIdUnreadable:
    return PredictionIdUnreadable(
        f"{prediction_id[:80]!r} is not a prediction id.",
        next_action="It looks like pred_01k9…_3f2: take it from the answer's skyloom-prediction-id.",
    )
