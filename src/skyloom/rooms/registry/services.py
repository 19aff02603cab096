"""What a bundle says about your own Python: the class, its endpoints, and the types that go in and out. Plain facts; no code runs here."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import RelativePath, ShortText, Text
from skyloom.ports.environment import PythonEnvironment

SOURCE_FOLDER = "service"
Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,79}$(?!\n)")]
SchemaText = Annotated[str, Meta(max_length=20_000)]
Reference = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}(:[A-Za-z0-9._-]{1,80})?$(?!\n)")]
_Limit = Annotated[int, Meta(ge=0, le=10_000)]


class Answering(enum.StrEnum):
    """How an endpoint gives what it returns."""

    WHOLE = "whole"
    PARTS = "parts"  # a generator: server-sent events, one for each value


class ServiceParameter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One argument of an endpoint.

    Attributes:
        annotation: its type in Python's words, for people and generated clients.
        schema: its JSON Schema, as text.
        is_bytes: it is raw bytes: base64 in JSON; alone, also the body itself as ``application/octet-stream``.
    """

    name: Identifier
    annotation: ShortText
    schema: SchemaText
    required: bool = True
    is_bytes: bool = False


class ServiceMethod(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One endpoint of a service: ``POST /{name}``.

    Attributes:
        returns, returns_schema: of the whole answer, or of each part.
        batch: so many requests may travel together; 0 for one at a time.
        concurrency: so many calls run at once.
        timeout_s: from the request's arrival; then it is answered 504 and given up.
    """

    name: Identifier
    doc: Text = ""
    parameters: Annotated[tuple[ServiceParameter, ...], Meta(max_length=50)] = ()
    returns: ShortText = "Any"
    returns_schema: SchemaText = "{}"
    answering: Answering = Answering.WHOLE
    batch: _Limit = 0
    concurrency: _Limit = 1
    timeout_s: Annotated[float, Meta(gt=0, le=3_600)] = 60.0


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One class of your own Python, ready to be served.

    Attributes:
        entry: the file that defines it, below the bundle's folder.
        definitions: JSON Schema of the structs that its types name: ``{"Review": {…}}``, as text.
        python: packages that its process needs beside those of the pool.
        tensors: the endpoint that the Open Inference Protocol calls, with the bundle's signature; empty for none.
        models: name inside of the service → folder of its bundle below this one.
    """

    entry: RelativePath
    class_name: Identifier
    doc: Text = ""
    methods: Annotated[tuple[ServiceMethod, ...], Meta(min_length=1, max_length=100)]
    definitions: Annotated[str, Meta(max_length=200_000)] = "{}"
    python: PythonEnvironment | None = None
    tensors: Annotated[str, Meta(max_length=80)] = ""
    models: Annotated[dict[Identifier, RelativePath], Meta(max_length=20)] = {}
