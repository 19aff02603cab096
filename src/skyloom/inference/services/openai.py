"""The OpenAI API in terms of a service's endpoints. Pure: requests become arguments, parts become chunks.

A service answers it by endpoints of these names and arguments, all of them optional but the first of each:

    chat(messages: list[dict[str, str]], max_tokens, temperature, top_p, stop, seed, num_logprobs) -> Iterator[str]
    complete(prompt: str, max_tokens, temperature, top_p, stop, seed, num_logprobs) -> Iterator[str]
    embed(texts: list[str]) -> list[list[float]]

Parts are pieces of text, or ``{"text": …, "logprobs": […]}`` of its tokens. A part may also be
``{"finish_reason": "length", "prompt_tokens": 12, "completion_tokens": 34}``: what only the service knows. Without it no numbers are made
up; embeddings may come as ``{"embeddings": […], "prompt_tokens": 12}`` for the same reason. What a request asks for and the service does
not take is refused: an answer that left it out would be another answer.
"""

import enum
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

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
_Stop = Annotated[str, Meta(max_length=1_000)]
_Texts = Annotated[list[_Text], Meta(min_length=1, max_length=2_048)]


class PromptUnreadable(InvalidInput):
    """The request is none of the OpenAI API, or asks for what this service cannot do."""


class NoSuchModel(NotFound):
    """The request names another model than the one that is served."""


class StreamOptions(msgspec.Struct, kw_only=True):
    """What a stream tells besides."""

    include_usage: bool | None = None


class GenerationRequest(msgspec.Struct, kw_only=True):
    """What both kinds of generation may be told."""

    model: Annotated[str, Meta(max_length=200)] = ""
    stream: bool = False
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=16)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stream_options: StreamOptions | None = None


class ChatMessage(msgspec.Struct, kw_only=True):
    """One turn. Content in pieces is joined; only text is taken."""

    role: Annotated[str, Meta(max_length=40)]
    content: _Text | Annotated[list[dict[str, Any]], Meta(max_length=1_000)] | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def num_logprobs(self) -> int | None:
        """Of the likeliest tokens to be told with each."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationRequest, kw_only=True):
    """``POST /v1/completions``."""

    prompt: _Text | _Texts
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    @property
    def num_logprobs(self) -> int | None:
        """Of the likeliest tokens to be told with each."""
        return self.logprobs


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """``POST /v1/embeddings``."""

    input: _Text | _Texts
    model: Annotated[str, Meta(max_length=200)] = ""
    encoding_format: Annotated[str, Meta(max_length=20)] = "float"


# What would change an answer and is never done, with the values that ask for nothing.
_UNDONE: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "echo": (None, False),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "dimensions": (None,),
    "audio": (None,),
}
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
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


class ReadRequest(NamedTuple):
    """A request in terms of an endpoint.

    Attributes:
        arguments: of the endpoint, as JSON.
        is_stream: parts are wanted as they come; ``tells_usage``: with the counts behind them.
        encoding: of embeddings.
        num_texts: to be embedded.
    """

    arguments: bytes
    is_stream: bool = False
    tells_usage: bool = False
    encoding: str = ""
    num_texts: int = 0


def read(address: Address, body: bytes, method: ServiceMethod, model: str) -> ReadRequest:
    """Read a request. Raises `PromptUnreadable`, `NoSuchModel`."""
    try:
        request = _DECODERS[address].decode(body)
        _check_done(_fields.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PromptUnreadable(f"The request cannot be read: {error}.", next_action="See the OpenAI API.") from None
    if request.model not in ("", model):
        raise NoSuchModel(f"No model {request.model!r} is served here.", next_action=f"Ask for {model!r}.")
    if isinstance(request, EmbeddingRequest):
        texts = [request.input] if isinstance(request.input, str) else request.input
        if request.encoding_format not in ("float", "base64"):
            raise PromptUnreadable("The encoding_format is not known.", next_action="Ask for float or base64.")
        arguments = msgspec.json.encode({"texts": texts})
        return ReadRequest(arguments, encoding=request.encoding_format, num_texts=len(texts))
    given = _given(request)
    known = {one.name for one in method.parameters}
    for name in given:
        if name not in known:
            raise PromptUnreadable(
                f"This service takes no {name!r}.",
                next_action=f"Leave it out; {method.name} takes: {', '.join(known)}.",
            )
    options = request.stream_options
    return ReadRequest(msgspec.json.encode(given), request.stream, bool(options and options.include_usage))


def _check_done(fields: dict[str, msgspec.Raw]) -> None:
    for name in fields.keys() & _UNDONE.keys():
        if msgspec.json.decode(fields[name]) not in _UNDONE[name]:
            raise PromptUnreadable(f"{name!r} is not done here.", next_action="Leave it out.")


def _given(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """What was said, by the endpoint's names; what was left out is the endpoint's to choose."""
    given: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": [request.stop] if isinstance(request.stop, str) else request.stop,
        "seed": request.seed,
        "num_logprobs": request.num_logprobs,
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
    """What a service says besides text; or text with the probabilities of its tokens, as the API words them for chats."""

    text: str = ""
    logprobs: list[dict[str, Any]] | None = None
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
    choice: dict[str, Any] = {"index": 0, "finish_reason": None, **_logprobs(address, part.logprobs)}
    if address is Address.COMPLETIONS:
        return _event(address, identity, [{"text": part.text, **choice}])
    delta = {"role": "assistant", "content": part.text} if is_first else {"content": part.text}
    return _event(address, identity, [{"delta": delta, **choice}])


def last_chunk(address: Address, identity: dict[str, Any], told: Told) -> dict[str, Any]:
    """The chunk that says why a stream ends."""
    rest: dict[str, Any] = {"text": ""} if address is Address.COMPLETIONS else {"delta": {}}
    return _event(address, identity, [{"index": 0, "finish_reason": told.finish_reason, **rest}])


def usage_chunk(address: Address, identity: dict[str, Any], told: Told) -> dict[str, Any]:
    """The chunk that holds the counts alone, where they were asked for."""
    return _event(address, identity, []) | {"usage": told.usage() or None}


def whole(address: Address, identity: dict[str, Any], parts: Sequence[Told], told: Told) -> dict[str, Any]:
    """All parts as one answer."""
    text = "".join(part.text for part in parts)
    has_probabilities = any(part.logprobs is not None for part in parts)
    tokens = [token for part in parts for token in part.logprobs or ()] if has_probabilities else None
    choice: dict[str, Any] = {"index": 0, "finish_reason": told.finish_reason, **_logprobs(address, tokens)}
    if address is Address.COMPLETIONS:
        choice |= {"text": text}
        kind = "text_completion"
    else:
        choice |= {"message": {"role": "assistant", "content": text}}
        kind = "chat.completion"
    made = {**identity, "object": kind, "choices": [choice]}
    return made | ({"usage": told.usage()} if told.usage() else {})


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
