"""The bounds of what an endpoint of a language model may be told, shared by all that generate. Pure."""

from typing import Annotated

from msgspec import Meta

MaxTokens = Annotated[int, Meta(ge=1, le=2**20)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Stop = Annotated[list[Annotated[str, Meta(max_length=1_000)]], Meta(max_length=16)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
NumLogprobs = Annotated[int, Meta(ge=0, le=20)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
# Token → what is added to its logit; 100 makes it certain, -100 bans it.
LogitBias = Annotated[
    dict[Annotated[str, Meta(pattern="^[0-9]{1,9}$", max_length=9)], Annotated[float, Meta(ge=-100, le=100)]],
    Meta(max_length=1_000),
]
JsonSchema = Annotated[str, Meta(min_length=2, max_length=65_536)]
NumAnswers = Annotated[int, Meta(ge=1, le=16)]
