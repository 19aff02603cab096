import typing

import msgspec
import pytest

from skyloom.cli.views import COLUMNS, PAGES, page
from skyloom.rooms.monitoring.model import Alert


def inner(kind: object) -> list[type]:
    """The classes that a type hint may stand for: those of a union, the bare ones behind annotations."""
    if typing.get_origin(kind) is typing.Annotated:
        return inner(typing.get_args(kind)[0])
    if isinstance(kind, type) and not typing.get_args(kind):
        return [kind]
    return [one for part in typing.get_args(kind) for one in inner(part)]


def resolves(noun: type, path: str) -> bool:
    first, _, rest = path.partition(".")
    if not issubclass(noun, msgspec.Struct):
        return False
    hints = typing.get_type_hints(noun, include_extras=False)
    if first not in hints:
        return isinstance(getattr(noun, first, None), property) and not rest
    return not rest or any(resolves(kind, rest) for kind in inner(hints[first]) if isinstance(kind, type))


SHOWN = [(noun, column.path) for noun, shown in COLUMNS.items() for column in shown if column.path] + [
    (noun, path)
    for noun, (shown, parts) in PAGES.items()
    for path in [*(column.path for column in shown if column.path), *parts]
]


@pytest.mark.parametrize(("noun", "path"), SHOWN, ids=lambda value: getattr(value, "__name__", value))
def test_every_shown_attribute_exists(noun: type, path: str):
    assert resolves(noun, path)


def test_headings_of_a_list_are_all_different():
    for noun, shown in COLUMNS.items():
        headings = [column.heading for column in shown]
        assert len(set(headings)) == len(headings), noun


def test_attribute_check_would_find_a_mistake():
    assert not resolves(next(iter(PAGES)), "job.spec.nmae")


def test_page_of_an_unknown_noun_shows_all_it_has():
    class Tree(msgspec.Struct):
        name: str
        height_m: float
        leaves: tuple[str, ...] = ()

    assert page(Tree("oak", 20.0, ("a", "b"))).pairs == [("name", "oak"), ("height m", "20"), ("leaves", "a, b")]


def test_alerts_are_about_endpoints_and_budgets():
    for shown in (COLUMNS[Alert], PAGES[Alert][0]):
        assert [column.heading for column in shown if column.path.startswith("endpoint")] == ["about"]
