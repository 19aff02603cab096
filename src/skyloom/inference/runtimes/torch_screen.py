"""A look into a ``.pt2`` archive before torch sees it. Knows zip and JSON; imports no torch.

torch's own loader runs what an archive says: pickles (weights, constants, sample inputs), expressions that sympy evaluates, guards that are
executed, and any function that a node names below ``torch``. So the archive is written anew from what is known to be data: plain weights, a
graph of ATen operators, and expressions in which nothing but arithmetic on sizes can be said. Everything else is refused.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import msgspec

_MAX_JSON_BYTES = 64 * 2**20
_MAX_FILES = 100_000
_KEPT = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/version|models/model\.json"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/sample_inputs/model\.pt|\.data/serialization_id|extra/\w*)\Z"
)
_DROPPED = re.compile(r"(data/sample_inputs/model\.pt|\.data/serialization_id|extra/\w*)\Z")
_TARGET = re.compile(
    r"(torch\.ops\.(aten|prims)\.\w+(\.\w+)?|torch\.sym_(float|int|ite|max|min|not|sqrt|sum)|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|getitem|and_|or_))\Z"
)
_TARGETS_DENIED = re.compile(r"torch\.ops\.aten\.(from_file|_pin_memory|pin_memory)\b")
_WORD = (
    r"(Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|Eq|Ne|Lt|Le|Gt|Ge|And|Or"
    r"|Not|positive|negative|nonnegative|integer|real|True|False|oo|int_oo|'?z?[su]f?\d+'?)"
)
_EXPRESSION = re.compile(rf"(\s|{_WORD}(?![\w'])|\d+(\.\d+)?(?!\w)|[-+*/(),=<>])*\Z")
_TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


class ArchiveUnsafe(ValueError):
    """The archive holds what is not data. The text says what, for people."""


def screened(content: bytes) -> bytes:
    """The same program as an archive of data alone, without sample inputs and guards. Raises `ArchiveUnsafe`."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = _read(archive, len(content))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise error if isinstance(error, ArchiveUnsafe) else ArchiveUnsafe("is no .pt2 archive") from error
    try:
        _screen(files)
    except (msgspec.MsgspecError, AttributeError, TypeError, RecursionError) as error:  # JSON of another shape
        raise ArchiveUnsafe("describes no program") from error
    return _written(files)


def _screen(files: dict[str, bytes]) -> None:
    """Check what an archive describes; what must not be looked at is emptied in place."""
    program = _decoded(files, "models/model.json")
    program["guards_code"] = []
    _check(program)
    files["models/model.json"] = msgspec.json.encode(program)
    for kind in ("weights", "constants"):
        name = f"data/{kind}/model_{kind}_config.json"
        config = _decoded(files, name)
        _check_payloads(config, kind)
        files[name] = msgspec.json.encode(config)


def _read(archive: zipfile.ZipFile, size_bytes: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    entries = archive.infolist()
    roots = {entry.filename.partition("/")[0] for entry in entries}
    if len(roots) != 1 or len(entries) > _MAX_FILES:
        raise ArchiveUnsafe("is no .pt2 archive of one program")
    if sum(entry.file_size for entry in entries) > size_bytes:  # parts that lie on each other would grow without end
        raise ArchiveUnsafe("holds more than its own bytes")
    for entry in entries:
        name = entry.filename.partition("/")[2]
        if not _KEPT.match(name) or name in files:
            raise ArchiveUnsafe(f"holds {name[:80]!r}, which is no part of a plain program")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ArchiveUnsafe("is compressed")
        if not _DROPPED.match(name):
            files[name] = archive.read(entry)
    return files


def _decoded(files: dict[str, bytes], name: str) -> dict[str, Any]:
    raw = files.get(name)
    if raw is None or len(raw) > _MAX_JSON_BYTES:
        raise ArchiveUnsafe(f"has no {name}, or too large a one")
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArchiveUnsafe(f"has a damaged {name}") from error


def _check(program: dict[str, Any]) -> None:
    for part in _parts(program):
        expression = part.get("expr_str")
        if expression is not None and not (isinstance(expression, str) and _EXPRESSION.match(expression)):
            raise ArchiveUnsafe(f"holds an expression that is no arithmetic: {str(expression)[:80]!r}")
        if "target" in part and "inputs" in part:
            _check_node(part)
        for tree in ("in_spec", "out_spec"):
            if isinstance(part.get(tree), str):
                _check_tree(msgspec.json.decode(part[tree]))
        if part.get("custom_obj_values") or "as_custom_obj" in part or "as_operator" in part or "as_graph" in part:
            raise ArchiveUnsafe("holds objects or programs inside of its program")


def _check_node(node: dict[str, Any]) -> None:
    target = node["target"]
    if not isinstance(target, str) or not _TARGET.match(target) or _TARGETS_DENIED.match(target):
        raise ArchiveUnsafe(f"calls {str(target)[:80]!r}, which is no plain tensor operator")
    node["metadata"] = {}  # where it came from; names of modules that a loader would import


def _check_tree(tree: Any) -> None:
    for part in _parts(tree):
        if "type" in part and part["type"] not in _TREES:
            raise ArchiveUnsafe(f"takes or gives a {str(part['type'])[:80]!r}, and not tuples, lists and dicts")


def _check_payloads(config: dict[str, Any], kind: str) -> None:
    prefix = "weight_" if kind == "weights" else "tensor_"
    for name, payload in config.get("config", {}).items():
        if payload.get("use_pickle") or not str(payload.get("path_name")).startswith(prefix):
            raise ArchiveUnsafe(f"keeps {name[:80]!r} as a pickle")


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside of a JSON value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _written(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(f"program/{name}", content)
    return made.getvalue()
