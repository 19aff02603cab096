"""YAML as nodes that know where they stand: read safely, within bounds, and strictly.

Only plain data is read: no tags, no objects. Size, depth and the number of nodes (aliases counted as often as they are used) are bounded,
so no file can make more of itself than it is. PyYAML is imported when the first file is read.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from skyloom.core.errors import InvalidInput

if TYPE_CHECKING:
    from yaml import Node

MAX_BYTES, MAX_DEPTH, MAX_NODES = 2**18, 16, 20_000
T = TypeVar("T", int, float)
_PLAIN = {"str", "int", "float", "bool", "null", "timestamp", "map", "seq"}


class YamlUnreadable(InvalidInput):
    """The file is no YAML that means a template; the message says where."""


class YamlPlace:
    """One node of a file: what is read of it, and where it stands, for whoever has to mend it.

    Args:
        path: how to get there, in words: ``jobs.train.cpus``.
    """

    def __init__(self, node: "Node", path: str) -> None:
        self._node = node
        self.path = path

    def wrong(self, what: str, next_action: str = "Correct that line.") -> YamlUnreadable:
        """An error about this place."""
        mark = self._node.start_mark
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        return YamlUnreadable(f"{where}: {self.path or 'the file'} {what}.", next_action=next_action)

    @property
    def is_map(self) -> bool:
        return bool(self._node.id == "mapping")

    @property
    def is_list(self) -> bool:
        return bool(self._node.id == "sequence")

    def fields(
        self, known: frozenset[str] | None = None, required: frozenset[str] = frozenset()
    ) -> dict[str, "YamlPlace"]:
        """The values of a map by name. Raises `YamlUnreadable` for another thing, an unknown or missing name, or one given twice."""
        if not self.is_map:
            raise self.wrong("has to be a map of names and values")
        found: dict[str, YamlPlace] = {}
        for key, value in self._node.value:
            name = YamlPlace(key, self.path).text()
            place = YamlPlace(value, f"{self.path}.{name}" if self.path else name)
            here = YamlPlace(key, place.path)
            if name in found:
                raise here.wrong("is given twice")
            if known is not None and name not in known:
                raise here.wrong("is unknown", f"Known here: {', '.join(sorted(known))}.")
            found[name] = place
        missing = sorted(required - found.keys())
        if missing:
            raise self.wrong(f"lacks {missing[0]!r}", f"Add it: {missing[0]}: …")
        return found

    def items(self) -> list["YamlPlace"]:
        """The items of a list."""
        if not self.is_list:
            raise self.wrong("has to be a list")
        return [YamlPlace(item, f"{self.path}[{index}]") for index, item in enumerate(self._node.value)]

    def text(self) -> str:
        """A scalar as it is written: ``true`` and ``3`` are texts too."""
        if self._node.id != "scalar":
            raise self.wrong("has to be a text")
        return str(self._node.value)

    def number(self, kind: type[T]) -> T:
        """A whole number or a float."""
        try:
            found = kind(self.text())
        except ValueError:
            raise self.wrong(f"has to be a {'whole ' if kind is int else ''}number, not {self.text()!r}") from None
        if found != found or found in (float("inf"), float("-inf")):
            raise self.wrong("has to be a finite number")
        return found

    def flag(self) -> bool:
        """``true`` or ``false``."""
        if self.text() not in ("true", "false"):
            raise self.wrong("has to be true or false")
        return self.text() == "true"


def read_yaml(text: str, name: str) -> YamlPlace:
    """Read one document. Raises `YamlUnreadable`."""
    import yaml

    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise YamlUnreadable(f"{name} has more than {MAX_BYTES:,} bytes.", next_action="Make it smaller.")
    try:
        _check_depth(yaml.parse(text, Loader=yaml.SafeLoader), name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        raise YamlUnreadable(
            f"{where}: {error.problem or 'this is no YAML'}.", next_action="Correct that line."
        ) from None
    except (yaml.YAMLError, UnicodeError, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        raise YamlUnreadable(f"{name} is no YAML: {what}.", next_action="Correct it.") from None
    if node is None:
        raise YamlUnreadable(f"{name} is empty.", next_action="Describe at least one job.")
    _name_marks(node, name)
    return YamlPlace(node, "")


def _check_depth(events: Iterator[Any], name: str) -> None:
    """Count before anything is built: building is recursive, and a deep enough file would end us."""
    depth = 0
    for number, event in enumerate(events):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > MAX_DEPTH + 2 or number > 2 * MAX_NODES:  # stream and document are levels too
            mark = event.start_mark
            raise YamlUnreadable(
                f"{name}, line {mark.line + 1}, column {mark.column + 1}: too deep or too much.",
                next_action=f"At most {MAX_DEPTH} levels and {MAX_NODES:,} values.",
            )


def _name_marks(root: "Node", name: str) -> None:
    """Check every node as often as it is used, and have its mark tell the name of the file."""
    waiting, seen = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        node.start_mark.name = name
        place = YamlPlace(node, "a value")
        if seen > MAX_NODES or depth > MAX_DEPTH:
            raise place.wrong("makes too much of the file", "Use fewer aliases.")
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in _PLAIN:
            raise place.wrong(f"has the tag {node.tag!r}", "Plain texts, numbers, lists and maps only.")
        if node.id == "mapping":
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
        elif node.id == "sequence":
            waiting += [(part, depth + 1) for part in node.value]
