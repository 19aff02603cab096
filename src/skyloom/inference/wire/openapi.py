"""The OpenAPI document of one replica: exactly the routes of its table, with the schemas of its model."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from skyloom import __version__
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.wire.desk import ErrorAnswer
from skyloom.inference.wire.rest_routes import RestRoute, RestTable
from skyloom.rooms.registry.bundle import Datatype, TensorSpec

_ERROR = {"$ref": "#/components/schemas/Error"}
_SCALARS: Mapping[Datatype, Mapping[str, Any]] = {
    Datatype.BOOL: {"type": "boolean"},
    Datatype.BYTES: {"type": "string"},
    **{kind: {"type": "number"} for kind in (Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64)},
}


def document(plane: DataPlane, table: RestTable) -> dict[str, Any]:
    """Describe every route of a table."""
    signature, plan = plane.contract.signature, plane.plan
    (schema,), parts = msgspec.json.schema_components([ErrorAnswer], ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{plan.model} {plan.model_version}", "version": __version__},
        "security": [{"token": []}],
        "paths": {
            target.decode(): {
                method.decode().lower(): _described(target, method, route) for method, route in methods.items()
            }
            for target, methods in sorted(table.items())
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                **parts,
                "Error": schema,
                "InferRequest": _infer_request(signature.inputs, [spec.name for spec in signature.outputs]),
                "InferAnswer": _infer_answer(signature.outputs),
                "Fields": {
                    "type": "object",
                    "properties": {spec.name: row_schema(spec) for spec in signature.inputs},
                    "required": [spec.name for spec in signature.inputs],
                },
                "Row": _row(plane),
                "Rows": {"type": "array", "items": {"$ref": "#/components/schemas/Row"}, "minItems": 1},
            },
        },
    }


def row_schema(spec: TensorSpec) -> dict[str, Any]:
    """One row of an input, as nested lists; a row of one element may also stand bare."""
    made = dict(_SCALARS.get(spec.datatype, {"type": "integer"}))
    for axis in reversed(spec.shape[1:]):
        made = {"type": "array", "items": made}
        if axis >= 0:
            made |= {"minItems": axis, "maxItems": axis}
    return made


def _row(plane: DataPlane) -> dict[str, Any]:
    form = plane.form
    if form is not None and form.columns:
        cell = {"type": ["number", "string", "boolean", "null"]}
        names = list(form.columns)
        return {
            "type": "object",
            "properties": dict.fromkeys(names, cell),
            "required": names,
            "additionalProperties": False,
        }
    return {"$ref": "#/components/schemas/Fields"}


def _described(target: bytes, method: bytes, route: RestRoute) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"[^a-zA-Z0-9]+", "_", f"{method.decode().lower()}_{target.decode().strip('/')}"),
        "responses": {
            "200": {
                "description": "The answer.",
                **({"content": {"application/json": {"schema": dict(route.gives)}}} if route.gives else {}),
            },
            "default": {
                "description": "What is wrong, and what to do.",
                "content": {"application/json": {"schema": _ERROR}},
            },
        },
    }
    if route.is_open:
        described["security"] = []
    if route.takes:
        schema = dict(route.asks) if route.asks else {}
        described["requestBody"] = {
            "required": True,
            "content": {
                kind.decode(): {"schema": schema if kind == b"application/json" else {}} for kind in route.takes if kind
            },
        }
    return described


def _infer_request(inputs: tuple[TensorSpec, ...], outputs: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "maxLength": 200},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"oneOf": [_tensor(spec) for spec in inputs]}, "minItems": 1},
            "outputs": {
                "type": "array",
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"enum": outputs}}},
            },
        },
    }


def _infer_answer(outputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["model_name", "model_version", "id", "outputs"],
        "properties": {
            "model_name": text,
            "model_version": text,
            "id": text,
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": {"oneOf": [_tensor(spec) for spec in outputs]}},
        },
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    size = len(spec.shape)
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype.value},
            "shape": {"type": "array", "items": {"type": "integer"}, "minItems": size, "maxItems": size},
            "data": {"type": "array", "description": "Flat, or nested as the shape says."},
            "parameters": {"type": "object"},
        },
    }
