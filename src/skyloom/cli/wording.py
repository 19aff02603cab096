"""How values read for people: sizes, durations, money, times; and text of users made harmless for a terminal."""

import math
import unicodedata
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec

from skyloom.core.money import Money
from skyloom.core.resources import Resources, show_bytes

NOTHING = "–"
_SHARES = ("_share", "_rate", "accuracy")
_NAMES = {"pid", "exit_code", "signal", "port", "rest_port", "grpc_port"}  # numbers that count nothing
_MOMENTS = ("_at", "since", "until")
_MOMENT = "at"


def safe(text: str, keep: str = "") -> str:
    r"""Write every character that could command a terminal or disguise text as an escape: ``\x1b``, ``\u202e``.

    That is control characters (C0, C1, DEL), format characters (bidi marks and overrides, zero-width, tags), line and paragraph
    separators and lone surrogates. Line breaks too, so that no name forges a line of a table, unless ``keep`` has them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or not is_risky(char) else _escaped(char) for char in text)


def is_risky(character: str) -> bool:
    """True for a character that `safe` escapes."""
    return unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp", "Cs", "Cn"}


def safe_output(text: str) -> str:
    """Make the output of a job harmless: as `safe`, but its lines stay lines. A lone carriage return, which would write over a
    line that was already read, begins a new one."""
    return safe(text.replace("\r\n", "\n").replace("\r", "\n"), keep="\n\t")


def label(name: str) -> str:
    """Turn a field's name into words, without the unit that `human` writes with the value."""
    name = name.replace("_per_s", "_rate")
    for unit in ("_usd", "_bytes", "_s", "_at"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def human(name: str, value: Any) -> str:
    """Write a value for people. The unit is known by the field's name: ``timeout_s``, ``size_bytes``, ``started_at``."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Enum):
        return safe(str(value.value))
    if isinstance(value, int | float):
        return _number(name, value)
    if isinstance(value, Resources):
        gpus = f", {value.gpus} GPUs" if value.gpus else ""
        return f"{value.cpus:g} CPUs{gpus}, {show_bytes(value.memory_bytes)}"
    if isinstance(value, dict):
        return ", ".join(_pair(safe(str(key)), item) for key, item in value.items()) or NOTHING
    if isinstance(value, tuple | list | set | frozenset):
        return ", ".join(human(name, item) for item in value) or NOTHING
    if isinstance(value, Money):
        return str(value)
    if isinstance(value, msgspec.Struct):  # inside a table there is room for no more than what it is called
        return human("", getattr(value, "id", None) or getattr(value, "name", None) or type(value).__name__)
    return safe(value if isinstance(value, str) else str(value))


def duration(seconds: float) -> str:
    """Write a duration with the unit that suits it: ``850 µs``, ``12.5 ms``, ``3.2 s``, ``4 min 05 s``, ``2 h 03 min``, ``3 d 01 h``."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (59.95, 1, "s")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}" if seconds else "0 s"
    whole = round(seconds)
    for step, unit, below in ((86_400, "d", "h"), (3_600, "h", "min"), (60, "min", "s")):
        if whole >= step:
            part = {"h": 3_600, "min": 60, "s": 1}[below]
            return f"{whole // step} {unit} {whole % step // part:02d} {below}"
    return f"{whole} s"


def moment(unix_s: float) -> str:
    """Write a Unix time as UTC: ``2026-01-31 23:59:58Z``."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{unix_s:g}"


def _pair(key: str, value: Any) -> str:
    return f"{key} ({human('', value)})" if isinstance(value, dict) else f"{key}={human('', value)}"


def _number(name: str, value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if name in _NAMES:
        return str(value)
    if name.endswith("_bytes"):
        return show_bytes(int(value))
    if name.endswith("_per_s"):
        return f"{value:,.4g}/s"
    if name.endswith("_s"):
        return duration(value)
    if name.endswith(_MOMENTS) or name == _MOMENT:
        return moment(value)
    if name.endswith(_SHARES):
        return f"{value * 100:.3g}%"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _escaped(character: str) -> str:
    code = ord(character)
    short = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(character)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
