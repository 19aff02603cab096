"""A service's spec as an OpenAPI 3.1 document. Pure: text in, document out."""

from typing import Any

import msgspec

from skyloom.inference.services.openai import offered
from skyloom.rooms.registry.services import Answering, ServiceMethod, ServiceSpec

_ERRORS = {
    "401": "No token that may call was shown.",
    "422": "The arguments do not fit, or the endpoint refuses them.",
    "429": "Too many calls wait.",
    "500": "The endpoint failed.",
    "503": "The service is being started again; nothing was begun.",
    "504": "It took too long.",
}


def document(spec: ServiceSpec, title: str, version: str) -> dict[str, Any]:
    """The document of one service."""
    schemas = msgspec.json.decode(spec.definitions)
    schemas["Error"] = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("error", "code", "category")},
        "required": ["error", "code", "category"],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": spec.doc},
        "paths": {
            **{f"/{method.name}": {"post": _operation(method)} for method in spec.methods},
            **{address.value: {"post": _likewise(method)} for address, method in offered(spec).items()},
        },
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


def _operation(method: ServiceMethod) -> dict[str, Any]:
    summary, _, rest = method.doc.partition("\n")
    errors = {status: _answer(words, "application/json", _reference()) for status, words in _ERRORS.items()}
    answer = msgspec.json.decode(method.returns_schema)
    kind = "application/octet-stream" if method.returns == "bytes" else "application/json"
    words = "What the endpoint returned."
    if method.answering is Answering.PARTS:
        kind, words = "text/event-stream", "One event for each part, its data as JSON; then an event named done."
    return {
        "operationId": method.name,
        "summary": summary,
        "description": rest.strip(),
        "requestBody": {"required": any(one.required for one in method.parameters), "content": _body(method)},
        "responses": {"200": _answer(words, kind, answer), **errors},
    }


def _likewise(method: ServiceMethod) -> dict[str, Any]:
    """An address of the OpenAI API, whose own document says more."""
    return {
        "operationId": f"openai_{method.name}",
        "summary": f"{method.name}, as the OpenAI API asks and answers it.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "responses": {"200": _answer("As the OpenAI API says.", "application/json", {"type": "object"})},
    }


def _body(method: ServiceMethod) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {one.name: msgspec.json.decode(one.schema) for one in method.parameters},
        "required": [one.name for one in method.parameters if one.required],
        "additionalProperties": False,
    }
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if takes_raw(method):
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return content


def takes_raw(method: ServiceMethod) -> bool:
    """True when the body itself may be its only argument."""
    return len(method.parameters) == 1 and method.parameters[0].is_bytes


def _answer(words: str, kind: str, schema: Any) -> dict[str, Any]:
    return {"description": words, "content": {kind: {"schema": schema}}}


def _reference() -> dict[str, str]:
    return {"$ref": "#/components/schemas/Error"}
