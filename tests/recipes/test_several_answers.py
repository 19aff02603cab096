"""Several answers of one request, by whatever engine: each whole, under its place, and none left behind."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.inference.services.openai import Address, read
from skyloom.inference.services.sampling import Sampling
from skyloom.recipes.generation.seam import Grown, WishUnfit
from skyloom.recipes.generation.several import seed_of
from skyloom.recipes.text_generation import TextGeneration
from skyloom.sdk.describing import describe
from skyloom.sdk.service import BadRequest


class Words:
    """An engine that writes the words of its seed, as long as anybody listens."""

    context_tokens = 64
    unable: frozenset[str] = frozenset()

    def __init__(self, fails: Exception | None = None) -> None:
        self.wishes: list[Sampling] = []
        self.open = 0
        self.fails = fails

    async def generate(self, prompt: Sequence[int], wish: Sampling) -> AsyncGenerator[Grown, None]:
        self.wishes.append(wish)
        nth = len(self.wishes) - 1
        if self.fails and nth:
            raise self.fails
        self.open += 1
        try:
            for number in range(1, wish.max_tokens + 1):
                await asyncio.sleep(0)
                token = ({"token": "w", "logprob": -1.0, "bytes": [], "top_logprobs": []},)
                ending = "length" if number == wish.max_tokens else ""
                yield Grown(f"{nth}.{number} ", number, token if wish.num_likely is not None else (), ending)
        finally:
            self.open -= 1


def service(engine: Words) -> TextGeneration:
    made = TextGeneration()
    made._engine = engine
    made._tokenizer = lambda prompt: SimpleNamespace(input_ids=[1, 2])
    return made


async def gathered(engine: Words, **more: Any) -> tuple[dict[int, str], dict[int, dict[str, Any]]]:
    texts: dict[int, str] = {}
    ends: dict[int, dict[str, Any]] = {}
    async for part in service(engine).complete("x", **{"max_tokens": 3, **more}):
        if isinstance(part, dict) and "finish_reason" in part:
            ends[part.get("index", 0)] = part
        else:
            index, text = (0, part) if isinstance(part, str) else (part.get("index", 0), part["text"])
            texts[index] = texts.get(index, "") + text
    return texts, ends


def test_answers_are_written_beside_each_other_and_each_ends_by_itself() -> None:
    engine = Words()
    texts, ends = asyncio.run(gathered(engine, num_answers=3, seed=2**63 - 1, stop=["1.2"]))
    assert texts == {0: "0.1 0.2 0.3 ", 1: "1.1 ", 2: "2.1 2.2 2.3 "} and engine.open == 0
    assert {index: end["finish_reason"] for index, end in ends.items()} == {0: "length", 1: "stop", 2: "length"}
    assert all(end["prompt_tokens"] == 2 for end in ends.values())
    assert [wish.seed for wish in engine.wishes] == [2**63 - 1, -(2**63), -(2**63) + 1]
    assert seed_of(None, 5) is None and seed_of(7, 0) == 7


def test_one_answer_is_told_as_ever_and_probabilities_come_with_their_answer() -> None:
    async def parts(**more: Any) -> list[Any]:
        return [part async for part in service(Words()).complete("x", max_tokens=1, **more)]

    assert asyncio.run(parts())[0] == "0.1 "
    told = [part for part in asyncio.run(parts(num_answers=2, num_logprobs=1)) if "text" in part]
    assert sorted((part.get("index", 0), len(part["logprobs"])) for part in told) == [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("failure", "raised"), [(WishUnfit("no"), BadRequest), (RuntimeError("the engine is gone"), RuntimeError)]
)
def test_answer_that_fails_ends_the_others(failure: Exception, raised: type[Exception]) -> None:
    engine = Words(failure)
    with pytest.raises(raised):
        asyncio.run(gathered(engine, num_answers=3, max_tokens=50))
    assert engine.open == 0


def test_client_that_leaves_ends_all_answers() -> None:
    engine = Words()

    async def leave() -> None:
        parts = service(engine).complete("x", max_tokens=50, num_answers=4)
        assert isinstance(parts, AsyncGenerator)
        for _ in range(6):
            await anext(parts)
        assert engine.open == 4
        await parts.aclose()
        assert engine.open == 0

    asyncio.run(leave())


def test_request_for_several_answers_is_read_for_such_a_service() -> None:
    spec, _ = describe(TextGeneration, "model")
    method = next(method for method in spec.methods if method.name == "chat")
    body = b'{"model":"m","n":2,"messages":[{"role":"user","content":"x"}]}'
    assert b'"num_answers":2' in read(Address.CHAT, body, method, "m").arguments
