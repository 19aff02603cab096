"""What a service says, in the words of the OpenAI API: answers whole, and chunks of streams. Pure."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from skyloom.inference.services.openai import Address


class Told(msgspec.Struct):
    """What a service says besides text; or text with the probabilities of its tokens, as the API words them for chats.

    ``index`` says of which answer, where several were asked for.
    """

    text: str = ""
    index: int = 0
    logprobs: list[dict[str, Any]] | None = None
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


_parts: msgspec.json.Decoder[str | Told] = msgspec.json.Decoder(str | Told)


def read_part(content: bytes | memoryview) -> Told:
    """One part of a service's answer. Raises ``msgspec.MsgspecError`` when it is neither text nor what is told besides."""
    part = _parts.decode(content)
    return Told(text=part) if isinstance(part, str) else part


class EmbeddedTexts(msgspec.Struct):
    """Embeddings with what only the service counts."""

    embeddings: list[list[float]]
    prompt_tokens: int | None = None


_embedded: msgspec.json.Decoder[list[list[float]] | EmbeddedTexts] = msgspec.json.Decoder(
    list[list[float]] | EmbeddedTexts
)


def read_embeddings(content: bytes | memoryview) -> EmbeddedTexts:
    """What a service says as embeddings. Raises ``msgspec.MsgspecError``."""
    found = _embedded.decode(content)
    return EmbeddedTexts(found) if isinstance(found, list) else found


def chunk(address: Address, identity: dict[str, Any], part: Told, *, is_first: bool) -> dict[str, Any]:
    """One part as a chunk of a stream."""
    choice: dict[str, Any] = {"index": part.index, "finish_reason": None, **_logprobs(address, part.logprobs)}
    if address is Address.COMPLETIONS:
        return _event(address, identity, [{"text": part.text, **choice}])
    delta = {"role": "assistant", "content": part.text} if is_first else {"content": part.text}
    return _event(address, identity, [{"delta": delta, **choice}])


def last_chunk(address: Address, identity: dict[str, Any], told: Told) -> dict[str, Any]:
    """The chunk that says why an answer ends."""
    rest: dict[str, Any] = {"text": ""} if address is Address.COMPLETIONS else {"delta": {}}
    return _event(address, identity, [{"index": told.index, "finish_reason": told.finish_reason, **rest}])


def usage_chunk(address: Address, identity: dict[str, Any], told: Sequence[Told]) -> dict[str, Any]:
    """The chunk that holds the counts alone, where they were asked for."""
    return _event(address, identity, []) | {"usage": usage(told) or None}


def usage(told: Sequence[Told]) -> dict[str, int]:
    """The counts of all answers as the API words them, the prompt's once; empty when the service does not count."""
    written = [one.completion_tokens for one in told if one.completion_tokens is not None]
    prompts = [one.prompt_tokens for one in told if one.prompt_tokens is not None]
    if len(written) != len(told) or len(prompts) != len(told) or not told:
        return {}
    total = sum(written)
    return {"prompt_tokens": prompts[0], "completion_tokens": total, "total_tokens": prompts[0] + total}


def whole(address: Address, identity: dict[str, Any], parts: Sequence[Told], told: Sequence[Told]) -> dict[str, Any]:
    """All parts as one answer of as many choices as were told."""
    choices = [_choice(address, [part for part in parts if part.index == one.index], one) for one in told]
    kind = "text_completion" if address is Address.COMPLETIONS else "chat.completion"
    counts = usage(told)
    return {**identity, "object": kind, "choices": choices} | ({"usage": counts} if counts else {})


def _choice(address: Address, parts: Sequence[Told], told: Told) -> dict[str, Any]:
    text = "".join(part.text for part in parts)
    has_probabilities = any(part.logprobs is not None for part in parts)
    tokens = [token for part in parts for token in part.logprobs or ()] if has_probabilities else None
    choice = {"index": told.index, "finish_reason": told.finish_reason, **_logprobs(address, tokens)}
    if address is Address.COMPLETIONS:
        return choice | {"text": text}
    return choice | {"message": {"role": "assistant", "content": text}}


def _logprobs(address: Address, tokens: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """The probabilities of tokens: chats and completions word them differently."""
    if tokens is None:
        return {}
    if address is Address.CHAT:
        return {"logprobs": {"content": tokens}}
    offsets = itertools.accumulate((len(one["token"]) for one in tokens), initial=0)
    likely = [{other["token"]: other["logprob"] for other in one.get("top_logprobs", ())} for one in tokens]
    return {
        "logprobs": {
            "tokens": [one["token"] for one in tokens],
            "token_logprobs": [one["logprob"] for one in tokens],
            "top_logprobs": likely,
            "text_offset": list(offsets)[: len(tokens)],
        }
    }


def _event(address: Address, identity: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    kind = "text_completion" if address is Address.COMPLETIONS else "chat.completion.chunk"
    return {**identity, "object": kind, "choices": choices}
