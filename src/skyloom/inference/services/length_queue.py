"""Texts of many callers on their way through one model, in batches of like length. Lives on one event loop; the model runs on a thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from skyloom.inference.services.lengths import like_lengths

Text = TypeVar("Text")
Vector = TypeVar("Vector")
_LOOKED_AT = 256  # of the oldest texts: the choice itself must stay cheap beside the model


class _Group:
    """The texts of one call: what became of each, and who waits for them all."""

    def __init__(self, num_texts: int) -> None:
        self.vectors: list[Any] = [None] * num_texts
        self.num_left = num_texts
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def failed(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def found(self, place: int, vector: Any) -> None:
        self.vectors[place] = vector
        self.num_left -= 1
        if not self.num_left and not self.done.done():
            self.done.set_result(None)


class LengthQueue(Generic[Text, Vector]):
    """The queue before one model.

    Args:
        run: a batch → a vector for each; on a thread, one batch at a time.
        length: of a text, in tokens.
        max_rows: of a batch.
    """

    def __init__(
        self, run: Callable[[list[Text]], Sequence[Vector]], length: Callable[[Text], int], max_rows: int
    ) -> None:
        self._run = run
        self._length = length
        self._max_rows = max_rows
        self._near: list[tuple[Text, _Group, int]] = []
        self._far: deque[tuple[Text, _Group, int]] = deque()
        self._pumping: asyncio.Task[None] | None = None

    async def vectors(self, texts: Sequence[Text]) -> list[Vector]:
        """One for each text, in their order; what fails a batch fails everybody in it."""
        if not texts:
            return []
        group = _Group(len(texts))
        self._far.extend((text, group, place) for place, text in enumerate(texts))
        if self._pumping is None or self._pumping.done():
            self._pumping = asyncio.get_running_loop().create_task(self._pump())
        try:
            await group.done
        finally:
            group.done.cancel()  # who left is passed over
        return group.vectors

    async def _pump(self) -> None:
        while batch := self._take():
            try:
                vectors = await asyncio.to_thread(self._run, [text for text, _, _ in batch])
            except Exception as error:
                for _, group, _ in batch:
                    group.failed(error)
                continue
            for (_, group, place), vector in zip(batch, vectors, strict=True):
                group.found(place, vector)

    def _take(self) -> list[tuple[Text, _Group, int]]:
        self._near = [one for one in self._near if not one[1].done.done()]
        while self._far and len(self._near) < _LOOKED_AT:
            one = self._far.popleft()
            if not one[1].done.done():
                self._near.append(one)
        if not self._near:
            return []
        places = like_lengths([self._length(text) for text, _, _ in self._near], self._max_rows)
        batch, taken = [self._near[place] for place in places], set(places)
        self._near = [one for place, one in enumerate(self._near) if place not in taken]
        return batch
