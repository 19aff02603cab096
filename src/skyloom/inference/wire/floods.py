"""What one HTTP/2 client may do that costs us and brings it nothing. Beyond it, the connection ends (RFC 9113 §10.5)."""

from skyloom.inference.wire.frames import ConnectionBroken, ErrorCode
from skyloom.inference.wire.outflow import Outflow

_CONTROL_PER_S = 1_000  # frames that ask for an answer and carry no request
_CONTROL_PER_PART = 4  # a client that reads much gives windows and measures the line
_FREE_RESETS = 200
_QUICK_RESETS = 16  # beyond those of answered requests; who takes back more is read slowly


class Floods:
    """Counts of one connection, against what its client was answered."""

    def __init__(self, outflow: Outflow) -> None:
        self._outflow = outflow
        self._num_control = self._num_resets = 0
        self._forgiven_at = 0.0

    def control(self) -> None:
        """Count a frame that carries nothing, or next to nothing. Raises `ConnectionBroken`."""
        self._num_control += 1
        if self._num_control > _CONTROL_PER_S + _CONTROL_PER_PART * self._outflow.num_parts:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def reset(self) -> None:
        """Count a request that ended before its answer. Raises `ConnectionBroken`.

        Begin and take back, again and again, is an attack (CVE-2023-44487), and so is to make us take it back (CVE-2025-8671).
        """
        self._num_resets += 1
        if self._num_resets > _FREE_RESETS + self._outflow.num_served:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "too many requests are taken back")

    @property
    def is_taking_back(self) -> bool:
        """True for a client that takes back much more than it lets us answer; one whose calls are too late may, so it is not ended yet."""
        return self._num_resets > _QUICK_RESETS + self._outflow.num_served

    @property
    def num_unpaid(self) -> int:
        """How many more requests ended before their answers than got some."""
        return self._num_resets - self._outflow.num_served

    def forgive(self, now: float) -> None:
        """Each second, on the monotonic clock, frames count from zero; requests that were taken back do not."""
        if now - self._forgiven_at >= 1:
            self._forgiven_at = now
            self._num_control = self._outflow.num_parts = 0
