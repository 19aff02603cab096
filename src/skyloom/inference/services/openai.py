"""The OpenAI API in terms of a service's endpoints. Pure: requests become arguments, parts become chunks.

A service answers it by endpoints of these names and arguments, all of them optional but the first of each:

    chat(messages: list[dict[str, str]], max_tokens, temperature, top_p, stop, seed, num_logprobs, num_answers,
         presence_penalty, frequency_penalty, logit_bias, json_schema) -> Iterator[str]
    complete(prompt: str, … the same without json_schema) -> Iterator[str]
    embed(texts: list[str]) -> list[list[float]]

Parts are pieces of text, or ``{"text": …, "logprobs": […], "index": 0}`` of its tokens and of which of several answers it is. A part may
also be ``{"finish_reason": "length", "prompt_tokens": 12, "completion_tokens": 34, "index": 0}``: what only the service knows. Without it
no numbers are made up; embeddings may come as ``{"embeddings": […], "prompt_tokens": 12}`` for the same reason. What a request asks for and
the service does not take is refused by its name, and so is what the API has and nobody here does: an answer that left it out would be
another answer.
"""

import enum
import re
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from skyloom.core.errors import InvalidInput, NotFound
from skyloom.inference.services.openai_bounds import (
    LogitBias,
    MaxTokens,
    NumAnswers,
    Penalty,
    Seed,
    Temperature,
    TopP,
)
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
_ROLES = {"developer": "system"}  # the API's newer word; models' templates know the older
_Text = Annotated[str, Meta(max_length=2**22)]
_Stop = Annotated[str, Meta(max_length=1_000)]
_Texts = Annotated[list[_Text], Meta(min_length=1, max_length=2_048)]


class PromptUnreadable(InvalidInput):
    """The request is none of the OpenAI API, or asks for what this service cannot do.

    Attributes:
        param: the field of the request, where it is one.
    """

    def __init__(self, message: str, *, next_action: str, param: str | None = None) -> None:
        super().__init__(message, next_action=next_action)
        self.param = param


class NoSuchModel(NotFound):
    """The request names another model than the one that is served."""


class StreamOptions(msgspec.Struct, kw_only=True):
    """What a stream tells besides."""

    include_usage: bool | None = None


class GenerationRequest(msgspec.Struct, kw_only=True):
    """What both kinds of generation may be told."""

    model: Annotated[str, Meta(max_length=200)] = ""
    stream: bool = False
    n: NumAnswers | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=16)] | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    stream_options: StreamOptions | None = None


class ChatMessage(msgspec.Struct, kw_only=True):
    """One turn. Content in pieces is joined; only text is taken."""

    role: Annotated[str, Meta(max_length=40)]
    content: _Text | Annotated[list[dict[str, Any]], Meta(max_length=1_000)] | None = None
    tool_calls: Annotated[list[msgspec.Raw], Meta(max_length=1_000)] | None = None


class NamedSchema(msgspec.Struct, kw_only=True):
    """The JSON Schema that an answer is to fit."""

    name: Annotated[str, Meta(max_length=200)] = ""
    schema: msgspec.Raw = msgspec.Raw(b"{}")


class ResponseFormat(msgspec.Struct, kw_only=True):
    """Which form an answer is to have."""

    type: Annotated[str, Meta(max_length=40)] = "text"
    json_schema: NamedSchema | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: MaxTokens | None = None
    response_format: ResponseFormat | None = None
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


# What is never done, with the values that ask for nothing: fields that only these make harmless.
_UNDONE: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "echo": (None, False),
    "best_of": (None, 1),
    "suffix": (None, ""),
}
# Notes of the caller's to its provider: no answer depends on them.
_NOTES = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
# Fields of requests whose argument has another name.
_ARGUMENTS = {"num_answers": "n", "num_logprobs": "logprobs", "json_schema": "response_format"}
_PLACE = re.compile(r"`\$\.([a-z_]+)")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_REQUESTS: dict[Address, type[msgspec.Struct]] = {
    Address.CHAT: ChatRequest,
    Address.COMPLETIONS: CompletionRequest,
    Address.EMBEDDINGS: EmbeddingRequest,
}
_DECODERS: dict[Address, msgspec.json.Decoder[Any]] = {
    address: msgspec.json.Decoder(kind) for address, kind in _REQUESTS.items()
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
        _check_done(address, _fields.decode(body))
        request = _DECODERS[address].decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        place = _PLACE.search(str(error))
        raise PromptUnreadable(
            f"The request cannot be read: {error}.",
            next_action="See the OpenAI API.",
            param=place[1] if place else None,
        ) from None
    if request.model not in ("", model):
        raise NoSuchModel(f"No model {request.model!r} is served here.", next_action=f"Ask for {model!r}.")
    if isinstance(request, EmbeddingRequest):
        return _texts(request)
    given = _given(request)
    known = {one.name for one in method.parameters}
    for name in given:
        if name not in known:
            field = _ARGUMENTS.get(name, name)
            raise PromptUnreadable(
                f"This service takes no {field!r}.",
                next_action=f"Leave it out; {method.name} takes: {', '.join(known)}.",
                param=field,
            )
    options = request.stream_options
    return ReadRequest(msgspec.json.encode(given), request.stream, bool(options and options.include_usage))


def _texts(request: EmbeddingRequest) -> ReadRequest:
    texts = [request.input] if isinstance(request.input, str) else request.input
    if request.encoding_format not in ("float", "base64"):
        raise PromptUnreadable(
            "The encoding_format is not known.", next_action="Ask for float or base64.", param="encoding_format"
        )
    arguments = msgspec.json.encode({"texts": texts})
    return ReadRequest(arguments, encoding=request.encoding_format, num_texts=len(texts))


def _check_done(address: Address, fields: dict[str, msgspec.Raw]) -> None:
    """Refuse fields that nothing is done with, unless they ask for nothing."""
    for name in fields.keys() - _NOTES - set(_REQUESTS[address].__struct_fields__):
        nothing = _UNDONE.get(name, (None,))
        if msgspec.json.decode(fields[name]) not in nothing:
            raise PromptUnreadable(f"{name[:80]!r} is not done here.", next_action="Leave it out.", param=name[:80])


def _given(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """What was said, by the endpoint's names; what was left out is the endpoint's to choose."""
    given: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": [request.stop] if isinstance(request.stop, str) else request.stop,
        "seed": request.seed,
        "num_logprobs": request.num_logprobs,
        "num_answers": None if request.n == 1 else request.n,
        "presence_penalty": request.presence_penalty or None,
        "frequency_penalty": request.frequency_penalty or None,
        "logit_bias": request.logit_bias or None,
    }
    if isinstance(request, ChatRequest):
        given["max_tokens"] = request.max_completion_tokens or request.max_tokens
        given["messages"] = [
            {"role": _ROLES.get(one.role, one.role), "content": _text(one)} for one in request.messages
        ]
        given["json_schema"] = _schema(request.response_format)
    elif isinstance(request.prompt, str) or len(request.prompt) == 1:
        given["prompt"] = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
    else:
        raise PromptUnreadable(
            "The request has several prompts.", next_action="Send one prompt a request.", param="prompt"
        )
    return {name: value for name, value in given.items() if value is not None}


def _schema(form: ResponseFormat | None) -> str | None:
    """The JSON Schema that an answer is to fit, as text; None where any text will do."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return '{"type":"object"}'
    if form.type != "json_schema" or form.json_schema is None:
        raise PromptUnreadable(
            f"A response_format of type {form.type!r} is not done here.",
            next_action="Ask for text, json_object or json_schema with a schema.",
            param="response_format",
        )
    try:
        return bytes(form.json_schema.schema).decode()
    except UnicodeDecodeError as error:  # what is kept as it came was not looked at
        raise PromptUnreadable(
            f"The schema cannot be read: {error}.", next_action="Send UTF-8.", param="response_format"
        ) from None


def _text(message: ChatMessage) -> str:
    if message.tool_calls:
        raise PromptUnreadable("A message calls tools.", next_action="Send text only.", param="messages")
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    pieces = [piece.get("text") for piece in message.content if piece.get("type") == "text"]
    if len(pieces) != len(message.content) or not all(isinstance(piece, str) for piece in pieces):
        raise PromptUnreadable("A message holds more than text.", next_action="Send text only.", param="messages")
    return "".join(str(piece) for piece in pieces)
