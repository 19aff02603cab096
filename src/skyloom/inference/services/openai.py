"""The OpenAI API in terms of a service's endpoints. Pure: requests become arguments, parts become chunks.

A service answers it by endpoints of these names and arguments, all of them optional but the first of each:

    chat(messages: list[dict[str, str]], max_tokens, temperature, top_p, stop, seed) -> Iterator[str]
    complete(prompt: str, max_tokens, temperature, top_p, stop, seed) -> Iterator[str]
    embed(texts: list[str]) -> list[list[float]]

Parts are pieces of text. A part may also be ``{"finish_reason": "length", "prompt_tokens": 12, "completion_tokens": 34}``: what only
the service knows. Without it no numbers are made up.
"""

import enum
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.rooms.registry.services import Answering, ServiceMethod, ServiceSpec


class Address(enum.StrEnum):
    """What a service may answer of the API."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"


_ENDPOINTS = {
    Address.CHAT: ("chat", "messages"),
    Address.COMPLETIONS: ("complete", "prompt"),
    Address.EMBEDDINGS: ("embed", "texts"),
}
_Text = Annotated[str, Meta(max_length=2**22)]
_Texts = Annotated[list[_Text], Meta(min_length=1, max_length=2_048)]


class PromptUnreadable(InvalidInput):
    """The request is none of the OpenAI API, or asks for what this service cannot do."""


class NoSuchModel(NotFound):
    """The request names another model than the one that is served."""


class Sampling(msgspec.Struct, kw_only=True):
    """What both kinds of generation may be told."""

    model: Annotated[str, Meta(max_length=200)] = ""
    stream: bool = False
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    stop: _Text | Annotated[list[_Text], Meta(max_length=16)] | None = None
    seed: int | None = None


class ChatMessage(msgspec.Struct, kw_only=True):
    """One turn. Content in pieces is joined; only text is taken."""

    role: Annotated[str, Meta(max_length=40)]
    content: _Text | Annotated[list[dict[str, Any]], Meta(max_length=1_000)] | None = None


class ChatRequest(Sampling, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**20)] | None = None


class CompletionRequest(Sampling, kw_only=True):
    """``POST /v1/completions``."""

    prompt: _Text | _Texts


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """``POST /v1/embeddings``."""

    input: _Text | _Texts
    model: Annotated[str, Meta(max_length=200)] = ""
    encoding_format: Annotated[str, Meta(max_length=20)] = "float"


_DECODERS: dict[Address, msgspec.json.Decoder[Any]] = {
    Address.CHAT: msgspec.json.Decoder(ChatRequest),
    Address.COMPLETIONS: msgspec.json.Decoder(CompletionRequest),
    Address.EMBEDDINGS: msgspec.json.Decoder(EmbeddingRequest),
}


def offered(spec: ServiceSpec) -> dict[Address, ServiceMethod]:
    """What of the API a service answers, by its endpoints' names and arguments."""
    methods = {method.name: method for method in spec.methods}
    found = {}
    for address, (name, argument) in _ENDPOINTS.items():
        method = methods.get(name)
        if method is None or argument not in {one.name for one in method.parameters}:
            continue
        wanted = Answering.WHOLE if address is Address.EMBEDDINGS else Answering.PARTS
        if method.answering is wanted:
            found[address] = method
    return found


def read(address: Address, body: bytes, method: ServiceMethod, model: str) -> tuple[bytes, bool, str]:
    """The endpoint's arguments as JSON, whether parts are wanted as they come, and how embeddings are to be encoded.

    Raises `PromptUnreadable`, `NoSuchModel`.
    """
    try:
        request = _DECODERS[address].decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PromptUnreadable(f"The request cannot be read: {error}.", next_action="See the OpenAI API.") from None
    if request.model not in ("", model):
        raise NoSuchModel(f"No model {request.model!r} is served here.", next_action=f"Ask for {model!r}.")
    if isinstance(request, EmbeddingRequest):
        texts = [request.input] if isinstance(request.input, str) else request.input
        return msgspec.json.encode({"texts": texts}), False, request.encoding_format
    given = _given(request)
    known = {one.name for one in method.parameters}
    return msgspec.json.encode({name: value for name, value in given.items() if name in known}), request.stream, ""


def _given(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """What was said, by the endpoint's names; what was left out is the endpoint's to choose."""
    given: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": [request.stop] if isinstance(request.stop, str) else request.stop,
        "seed": request.seed,
    }
    if isinstance(request, ChatRequest):
        given["max_tokens"] = request.max_completion_tokens or request.max_tokens
        given["messages"] = [{"role": one.role, "content": _text(one)} for one in request.messages]
    elif isinstance(request.prompt, str) or len(request.prompt) == 1:
        given["prompt"] = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
    else:
        raise PromptUnreadable("The request has several prompts.", next_action="Send one prompt a request.")
    return {name: value for name, value in given.items() if value is not None}


def _text(message: ChatMessage) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    pieces = [piece.get("text") for piece in message.content if piece.get("type") == "text"]
    if len(pieces) != len(message.content) or not all(isinstance(piece, str) for piece in pieces):
        raise PromptUnreadable("A message holds more than text.", next_action="Send text only.")
    return "".join(str(piece) for piece in pieces)


class Told(msgspec.Struct):
    """What a service says besides text."""

    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def usage(self) -> dict[str, int]:
        """As the API words it; empty when the service does not count."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return {}
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


_parts: msgspec.json.Decoder[str | Told] = msgspec.json.Decoder(str | Told)


def read_part(content: bytes | memoryview) -> str | Told:
    """One part of a service's answer. Raises ``msgspec.MsgspecError`` when it is neither text nor what is told besides."""
    return _parts.decode(content)


def chunk(address: Address, identity: dict[str, Any], text: str, *, is_first: bool) -> dict[str, Any]:
    """One part as a chunk of a stream."""
    if address is Address.COMPLETIONS:
        return _event(address, identity, {"index": 0, "text": text, "finish_reason": None})
    delta = {"role": "assistant", "content": text} if is_first else {"content": text}
    return _event(address, identity, {"index": 0, "delta": delta, "finish_reason": None})


def last_chunk(address: Address, identity: dict[str, Any], told: Told) -> dict[str, Any]:
    """The chunk that says why a stream ends, with the counts where the service made them."""
    rest: dict[str, Any] = {"text": ""} if address is Address.COMPLETIONS else {"delta": {}}
    made = _event(address, identity, {"index": 0, "finish_reason": told.finish_reason, **rest})
    return made | ({"usage": told.usage()} if told.usage() else {})


def whole(address: Address, identity: dict[str, Any], texts: Sequence[str], told: Told) -> dict[str, Any]:
    """All parts as one answer."""
    text = "".join(texts)
    if address is Address.COMPLETIONS:
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": told.finish_reason}
        kind = "text_completion"
    else:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": told.finish_reason}
        kind = "chat.completion"
    made = {**identity, "object": kind, "choices": [choice]}
    return made | ({"usage": told.usage()} if told.usage() else {})


def _event(address: Address, identity: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    kind = "text_completion" if address is Address.COMPLETIONS else "chat.completion.chunk"
    return {**identity, "object": kind, "choices": [choice]}
