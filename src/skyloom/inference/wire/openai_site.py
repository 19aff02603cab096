"""The OpenAI API over HTTP, for services that have its endpoints: models, chat, completions, embeddings.

Streams are events, and then ``[DONE]``.
"""

import base64
import time
from array import array
from typing import Any

import msgspec

from skyloom.core.errors import Category, SkyloomError
from skyloom.core.ids import ALPHABET
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.services import openai, openai_answers
from skyloom.inference.services.calls import ArgumentsRefused, CallOutcome, ServiceFailed
from skyloom.inference.services.openai import Address, ReadRequest
from skyloom.inference.services.openai_answers import Told
from skyloom.inference.services.process import ServiceProcess
from skyloom.inference.wire.events import event
from skyloom.inference.wire.messages import Fields, Head, Request, Response
from skyloom.inference.wire.service_call import EndpointCall, worded
from skyloom.inference.wire.shown_tokens import ShownTokens
from skyloom.inference.wire.site import Streaming

_MODELS = "/v1/models"
_MAX_CHARACTERS = 2**24
_PART_CHARACTERS = 64  # what a part takes beside its text, at least
_KINDS = {
    Category.INVALID: "invalid_request_error",
    Category.NOT_FOUND: "invalid_request_error",
    Category.LIMIT: "rate_limit_error",
}


class OpenAi:
    """What of the OpenAI API a service answers."""

    def __init__(self, plane: DataPlane, process: ServiceProcess, streams: ShownTokens) -> None:
        self._plane = plane
        self._process = process
        self._streams = streams
        self._methods = openai.offered(process.spec)
        self._began = int(time.time())
        self._num_calls = 0

    def verb(self, target: bytes) -> bytes | None:
        """The HTTP method of one of its addresses; None for an address of somebody else."""
        if not self._methods:
            return None
        name = target.decode("latin-1")
        if name == _MODELS or name.startswith(f"{_MODELS}/"):
            return b"GET"
        return b"POST" if any(name == address for address in self._methods) else None

    def content_problem(self, head: Head) -> Response | None:
        """Refuse a body that is no JSON."""
        if head.method == b"GET" or head.headers.get(b"content-type", b"").startswith(b"application/json"):
            return None
        return _told(415, "Send Content-Type: application/json.", "invalid_request_error")

    def serve(self, request: Request, exchange: Streaming) -> None:
        """Answer, now or part by part."""
        name = request.head.target.decode("latin-1")
        if name.startswith(_MODELS):
            exchange.answer(self._models(name))
            return
        address = Address(name)
        method = self._methods[address]
        model = self._plane.plan.model
        try:
            wanted = openai.read(address, request.body, method, model)
        except SkyloomError as error:
            exchange.answer(_failed(error))
            return
        wording = OpenAiWording(address, self._identity(), wanted)
        collecting = address is not Address.EMBEDDINGS and not wanted.is_stream
        body = wanted.arguments
        call = EndpointCall(
            self._plane,
            self._process,
            request,
            exchange,
            method,
            wording,
            self._streams,
            body=body,
            is_collected=collecting,
        )
        call.begin()

    def _models(self, name: str) -> Response:
        plan = self._plane.plan
        if name not in (_MODELS, f"{_MODELS}/{plan.model}"):
            return _failed(openai.NoSuchModel("No such model is served here.", next_action=f"Ask for {plan.model!r}."))
        model = {"id": plan.model, "object": "model", "created": self._began, "owned_by": plan.project}
        listed = {"object": "list", "data": [model]}
        return Response(200, msgspec.json.encode(listed if name == _MODELS else model))

    def _identity(self) -> dict[str, Any]:
        self._num_calls += 1
        plan, digits, rest = self._plane.plan, "", self._num_calls
        while rest:
            digits, rest = ALPHABET[rest & 31] + digits, rest >> 5
        return {"id": f"gen-{plan.replica}-{digits}", "created": int(time.time()), "model": plan.model}


class OpenAiWording:
    """The API's words for one call."""

    def __init__(self, address: Address, identity: dict[str, Any], wanted: ReadRequest) -> None:
        self._address = address
        self._identity = identity
        self._wanted = wanted
        self._kept: list[Told] = []
        self._told: dict[int, Told] = {}  # the last word on each answer
        self._begun: set[int] = set()  # answers
        self._num_characters = 0

    def whole(self, outcome: CallOutcome, headers: Fields) -> Response:
        """All parts together, or embeddings."""
        if self._address is Address.EMBEDDINGS:
            made = self._embeddings(outcome.content)
        else:
            made = openai_answers.whole(self._address, self._identity, self._kept, self._endings)
        return Response(200, msgspec.json.encode(made), headers=headers)

    def part(self, content: memoryview) -> bytes:
        """A chunk; nothing for what is told besides, which comes with the last one."""
        try:
            said = openai_answers.read_part(content)
        except msgspec.MsgspecError as error:
            raise ServiceFailed(
                f"The endpoint gave a part that is no text: {error}.",
                next_action="Yield str, or finish_reason and counts.",
            ) from None
        if not said.text:
            self._told[said.index] = said
            return b""
        is_first = said.index not in self._begun
        self._begun.add(said.index)
        if not self._wanted.is_stream:
            self._kept.append(said)
            self._num_characters += len(said.text) + _PART_CHARACTERS
            if self._num_characters > _MAX_CHARACTERS:
                raise ServiceFailed("The answer is too long to be one.", next_action="Ask for a stream.")
            return b""
        made = openai_answers.chunk(self._address, self._identity, said, is_first=is_first)
        return event(msgspec.json.encode(made))

    def last(self, prediction_id: str) -> bytes:
        """Why it ended, and that it has."""
        endings = self._endings
        made = [openai_answers.last_chunk(self._address, self._identity, one) for one in endings]
        if self._wanted.tells_usage:
            made.append(openai_answers.usage_chunk(self._address, self._identity, endings))
        told = b"".join(event(msgspec.json.encode(one)) for one in made)
        return told + event(b"[DONE]")

    @property
    def _endings(self) -> list[Told]:
        """Of every answer, in order; one that the service said no last word of ends as usual."""
        found = {index: Told(index=index) for index in self._begun or {0}} | self._told
        return [found[index] for index in sorted(found)]

    def failed(self, error: SkyloomError, prediction_id: str) -> Response:
        """The API's form of an error."""
        return _failed(error, prediction_id)

    def broken(self, error: SkyloomError) -> bytes:
        """An error in the middle of a stream: clients of the API know it by its only field."""
        return event(_failed(error).body)

    def _embeddings(self, content: memoryview) -> dict[str, Any]:
        try:
            said = openai_answers.read_embeddings(content)
        except msgspec.MsgspecError as error:
            raise ServiceFailed(
                f"The endpoint gave no embeddings: {error}.", next_action="Return lists of numbers."
            ) from None
        if len(said.embeddings) != self._wanted.num_texts:
            words = f"The endpoint gave {len(said.embeddings)} embeddings for {self._wanted.num_texts} texts."
            raise ServiceFailed(words, next_action="Return one for each text.")
        coded: list[Any] = said.embeddings
        if self._wanted.encoding == "base64":
            coded = [base64.b64encode(array("f", vector).tobytes()).decode() for vector in said.embeddings]
        items = [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(coded)]
        made = {"object": "list", "data": items, "model": self._identity["model"]}
        count = said.prompt_tokens
        return made if count is None else made | {"usage": {"prompt_tokens": count, "total_tokens": count}}


def _failed(error: SkyloomError, prediction_id: str = "") -> Response:
    response = worded(error, prediction_id)
    if isinstance(error, ArgumentsRefused):
        response.status = 400  # as the API says it
    kind = _KINDS.get(error.category, "server_error")
    response.body = _error(str(error), kind, error.code, getattr(error, "param", None))
    return response


def _told(status: int, message: str, kind: str) -> Response:
    return Response(status, _error(message, kind, f"http_{status}"))


def _error(message: str, kind: str, code: str, param: str | None = None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})
