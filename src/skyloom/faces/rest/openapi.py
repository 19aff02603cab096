"""OpenAPI from the operations: parameters, bodies, answers and errors of every route."""

from collections.abc import Sequence
from typing import Any

import msgspec

from skyloom.core.errors import ErrorBody
from skyloom.core.operation import Operation
from skyloom.faces.rest.errors import STATUS

_REF = "#/components/schemas/{name}"
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Repeating a change with its key gives the first answer and no second effect.",
    "schema": {"type": "string", "maxLength": 200},
}


def document(operations: Sequence[type[Operation[Any]]], version: str) -> bytes:
    """The whole OpenAPI document, as JSON."""
    schemas, references = components(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        entry = describe(operation, schemas, references)
        paths.setdefault(operation.route.full_path, {})[operation.route.verb.value.lower()] = entry
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Skyloom", "version": version},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def components(operations: Sequence[type[Operation[Any]]]) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The shared schemas, and for every request, answer and error a reference to its own."""
    kinds = [kind for operation in operations for kind in (operation, operation.route.answer)] + [ErrorBody]
    references, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    return schemas, dict(zip(kinds, references, strict=True))


def describe(operation: type[Operation[Any]], schemas: dict[str, Any], references: dict[Any, Any]) -> dict[str, Any]:
    """The OpenAPI entry of one operation."""
    route = operation.route
    own = references[operation]["$ref"].rsplit("/", 1)[1]
    properties, required = schemas[own]["properties"], set(schemas[own].get("required", ()))
    in_path = route.path_fields
    names = ("project", *in_path) if not route.global_ else in_path
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": properties.get(name, {"type": "string"})}
        for name in names
    ]
    entry: dict[str, Any] = {
        "operationId": route.name,
        "summary": (operation.__doc__ or "").split("\n")[0],
        "tags": [route.name.split(".")[0]],
        "parameters": parameters,
        "security": [{"token": []}],
        "x-right": route.right.value,
        "responses": {
            "200": _content("The answer.", references[route.answer]),
            **{
                str(status): _content(category.value.replace("_", " "), references[ErrorBody])
                for category, status in STATUS.items()
            },
        },
    }
    rest = {name: schema for name, schema in properties.items() if name not in in_path}
    if route.has_body:
        body = {"type": "object", "properties": rest, "required": sorted(required - set(in_path))}
        entry["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        parameters.append(_KEY)
    else:
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in rest.items()
        ]
    return entry


def _content(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
