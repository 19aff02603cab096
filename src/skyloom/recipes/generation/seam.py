"""What a text service asks of whatever runs its model. Pure.

An engine batches by itself: requests join and leave token by token. Whoever closes `TextEngine.generate` gives its place back.
"""

import enum
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple, Protocol

from skyloom.core.errors import InvalidInput
from skyloom.inference.services.sampling import Sampling

INSTALL_VLLM = "pip install 'skyloom[vllm]'"


class EngineChoice(enum.StrEnum):
    """What is to generate."""

    AUTO = "auto"  # vLLM where it is installed and has a GPU, else transformers
    TRANSFORMERS = "transformers"
    VLLM = "vllm"


class TextEngineMissing(InvalidInput):
    """The engine that a service asks for is not installed."""


# What not every engine can do, by the names of a service's arguments.
SPECIAL = ("seed", "num_logprobs", "presence_penalty", "frequency_penalty", "logit_bias", "json_schema")


def asked(sampling: Sampling) -> frozenset[str]:
    """Of `SPECIAL`, what a request asks for."""
    named = {**sampling._asdict(), "num_logprobs": sampling.num_likely}
    return frozenset(name for name in SPECIAL if named[name] is not None)


class Grown(NamedTuple):
    """More of a text.

    Attributes:
        text: whole characters only.
        num_tokens: of the text so far.
        tokens: the new ones with their probabilities, as the OpenAI API words them for chats, where they were asked for.
        ending: ``stop`` or ``length`` with the last one.
    """

    text: str
    num_tokens: int
    tokens: tuple[dict[str, Any], ...] = ()
    ending: str = ""


class WishUnfit(Exception):
    """The engine cannot do what was asked of it; its own words."""


class TextEngine(Protocol):
    """A model in memory.

    Attributes:
        context_tokens: prompt and answer of one request together.
        unable: of `SPECIAL`, what it cannot do.
    """

    context_tokens: int
    unable: frozenset[str]

    def generate(self, prompt: Sequence[int], wish: Sampling) -> AsyncGenerator[Grown, None]:
        """Continue a prompt; the last part has an ending. Raises `WishUnfit`; anything else means that the engine failed."""
        ...


def choose(choice: EngineChoice, *, has_vllm: bool, has_gpu: bool) -> EngineChoice:
    """Which engine it is to be. Raises `TextEngineMissing`."""
    if choice is EngineChoice.AUTO:
        return EngineChoice.VLLM if has_vllm and has_gpu else EngineChoice.TRANSFORMERS
    if choice is EngineChoice.VLLM and not has_vllm:
        raise TextEngineMissing(
            "The service asks for vLLM, which is not installed here.",
            next_action=f"Install it where replicas run: {INSTALL_VLLM}.",
        )
    return choice
