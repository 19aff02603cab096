"""What queued jobs wait for, as the last round of the loop said: never stored, lost without harm."""

from collections.abc import Mapping


class Waits:
    """Written by the loop, read by whoever asks for a job. Thread-safe: what was said is replaced, never changed."""

    def __init__(self) -> None:
        self._said: Mapping[str, str] = {}
        self._num_explained = 0

    def tell(self, said: Mapping[str, str], num_explained: int) -> None:
        """Replace all that was said."""
        self._said, self._num_explained = said, num_explained

    def add(self, job_id: str, why: str) -> None:
        """Say of one more job what it waits for, until the next round."""
        self._said = {**self._said, job_id: why}

    def of(self, job_id: str) -> str:
        """What a job waits for, should it be queued."""
        behind = f"behind {len(self._said)} others or more" if self._num_explained >= 32 else ""
        return self._said.get(job_id, behind)
