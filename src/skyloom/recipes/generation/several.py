"""Several answers to one request, written beside each other: their parts come as they are made. Pure but for the loop."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

Part = str | dict[str, Any]
_MAX_WAITING = 16  # parts that nobody has taken yet; then who writes them waits
_SEEDS = 2**64


async def together(answers: Sequence[AsyncGenerator[Part, None]]) -> AsyncGenerator[Part, None]:
    """The parts of all answers, each with its answer's place. What one raises ends all; whoever closes this closes them."""
    if len(answers) == 1:
        async with contextlib.aclosing(answers[0]) as only:
            async for part in only:
                yield part
        return
    heard = asyncio.Queue[Part | Exception | None](_MAX_WAITING)
    writers = [asyncio.create_task(_listen(index, answer, heard)) for index, answer in enumerate(answers)]
    try:
        left = len(writers)
        while left:
            said = await heard.get()
            if isinstance(said, Exception):
                raise said
            if said is None:
                left -= 1
            else:
                yield said
    finally:
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)


def seed_of(seed: int | None, index: int) -> int | None:
    """The seed of one of several answers: the first has the request's own, and none has another's. In 64 bits with a sign."""
    if seed is None:
        return None
    return (seed + index + _SEEDS // 2) % _SEEDS - _SEEDS // 2


async def _listen(
    index: int, answer: AsyncGenerator[Part, None], heard: "asyncio.Queue[Part | Exception | None]"
) -> None:
    try:
        async with contextlib.aclosing(answer) as parts:
            async for part in parts:
                await heard.put(_placed(part, index))
    except Exception as error:
        await heard.put(error)
    else:
        await heard.put(None)


def _placed(part: Part, index: int) -> Part:
    """A part that says of which answer it is; the first is meant where none is named."""
    if not index:
        return part
    return {"text": part, "index": index} if isinstance(part, str) else {**part, "index": index}
