"""A typed client for one service, as the text of a Python file that needs nothing but the standard library. Pure."""

import json
import keyword
import re
from collections.abc import Iterator

from skyloom.rooms.registry.services import Answering, ServiceMethod, ServiceParameter, ServiceSpec

_KNOWN = frozenset(
    {"str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "None", "Any", "Optional", "Union"}
)

_HEAD = '''"""Client of the service {title}, made by: skyloom model client {model}

    with_token = {name}("http://127.0.0.1:PORT", "TOKEN")   # skyloom endpoint show NAME; skyloom token create
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Optional, Union


class ServiceError(Exception):
    """The service refused (4xx) or failed (5xx). ``status`` is the HTTP status; the message is the service's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class {name}:
    """{doc}"""

    def __init__(self, url: str, token: str, timeout_s: float = 60.0) -> None:
        self._url = url.rstrip("/")
        self._headers = {{"Authorization": f"Bearer {{token}}", "Content-Type": "application/json"}}
        self._timeout_s = timeout_s
'''

_TAIL = """
    def _open(self, method: str, arguments: dict[str, Any]) -> Any:
        body = json.dumps(arguments, default=_plain).encode()
        request = urllib.request.Request(f"{self._url}/{method}", body, self._headers)
        try:
            return urllib.request.urlopen(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            try:
                message = json.loads(error.read())["error"]
            except (ValueError, KeyError):
                message = error.reason
            raise ServiceError(error.code, message) from None

    def _call(self, method: str, arguments: dict[str, Any]) -> Any:
        with self._open(method, arguments) as answer:
            content = answer.read()
            return content if answer.headers.get_content_type() == "application/octet-stream" else json.loads(content)

    def _stream(self, method: str, arguments: dict[str, Any]) -> Iterator[Any]:
        with self._open(method, arguments) as answer:
            name, data = "", []
            for raw in answer:
                line = raw.decode().rstrip("\\n")
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data.append(line[6:])
                elif not line and data:
                    value, data = json.loads("\\n".join(data)), []
                    if name == "error":
                        raise ServiceError(500, value["error"])
                    if name == "done":
                        return
                    yield value
            raise ServiceError(503, "the stream ended early")


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be sent")
"""


def client_text(spec: ServiceSpec, model: str) -> str:
    """The file. Types that only the service knows (its own structs) are plain dicts here."""
    doc = json.dumps(spec.doc.partition("\n")[0] or f"The service {spec.class_name}.")[1:-1]
    head = _HEAD.format(title=spec.class_name, model=model, name=spec.class_name, doc=doc)
    return head + "".join(line for method in spec.methods for line in _method(method)) + _TAIL


def _method(method: ServiceMethod) -> Iterator[str]:
    if keyword.iskeyword(method.name):
        return
    ordered = sorted(method.parameters, key=lambda one: not one.required)
    parameters = "".join(f", {_parameter(one)}" for one in ordered)
    is_parts = method.answering is Answering.PARTS
    returns = f"Iterator[{_given(method.returns)}]" if is_parts else _given(method.returns, is_whole=True)
    yield f"\n    def {method.name}(self{', *' if ordered else ''}{parameters}) -> {returns}:\n"
    yield f"        {_doc(method)}\n"
    given = ", ".join(f'"{one.name}": {one.name}' for one in ordered)
    yield f"        arguments: dict[str, Any] = {{{given}}}\n"
    if any(not one.required for one in ordered):
        yield "        arguments = {name: value for name, value in arguments.items() if value is not ...}\n"
    yield f'        return self.{"_stream" if is_parts else "_call"}("{method.name}", arguments)\n'


def _parameter(one: ServiceParameter) -> str:
    return f"{one.name}: {_type(one.annotation)}" + ("" if one.required else " = ...")


def _doc(method: ServiceMethod) -> str:
    first = method.doc.partition("\n")[0] or f"Call {method.name}."
    return '"""' + json.dumps(first, ensure_ascii=False)[1:-1] + '"""'


def _given(annotation: str, *, is_whole: bool = False) -> str:
    """A result's type as JSON brings it: bytes are themselves only as the whole answer, else base64; tuples are lists, keys text."""
    if is_whole and annotation == "bytes":
        return "bytes"
    if re.search(r"\btuple\b|dict\[(?!str\b)", annotation):
        return "Any"
    return re.sub(r"\bbytes\b", "str", _type(annotation))


def _type(annotation: str) -> str:
    """A type whose every word a client knows, or Any."""
    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_.]*", annotation))
    is_plain = words <= _KNOWN and re.fullmatch(r"[A-Za-z0-9_\[\], |]*", annotation)
    return annotation if annotation and is_plain else "Any"
