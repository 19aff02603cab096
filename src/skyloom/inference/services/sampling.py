"""How a language model is to continue a text; the same for every engine. Pure."""

from collections.abc import Mapping
from typing import NamedTuple


class Sampling(NamedTuple):
    """What a request asks for. A temperature of 0 takes the likeliest token; the same seed writes the same again. None: not asked for.

    Attributes:
        num_likely: of the likeliest tokens to be told with each; None for no probabilities at all.
        logit_bias: by token.
        json_schema: that the answer is to fit.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    num_likely: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    json_schema: str | None = None
