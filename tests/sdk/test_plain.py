"""Plain functions become a service: which of a file, with what types, packages and size."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from skyloom.core import digests
from skyloom.core.errors import InvalidInput, SkyloomError
from skyloom.core.events import TriggerEvent
from skyloom.inference.services.worker import find
from skyloom.rooms.registry.services import Answering
from skyloom.sdk.packing import Packed, ServiceNotImportable, inline_requirements, pack_functions
from skyloom.sdk.plain import FunctionNotFound, FunctionsUnclear

TWO = "def one(x: int) -> int:\n    return x + 1\n\ndef _hidden(): ...\n\ndef two(x: int = 3) -> int:\n    return x\n"
ALL = """
from collections.abc import AsyncIterator, Iterator
import skyloom

@skyloom.function(cpus=2, memory="2GiB", requirements=["rapidfuzz>=3"])
def plain(x: int) -> int:
    return x + 1

@skyloom.endpoint(timeout_s=5, concurrency=3)
async def waiting(x: int) -> int:
    return x + 2

@skyloom.endpoint
def parts(x: int) -> Iterator[int]:
    yield from range(x)

@skyloom.endpoint
async def slow_parts(x: int) -> AsyncIterator[int]:
    for one in range(x):
        yield one

def left_alone(): ...
"""


@pytest.fixture
def packed(tmp_path: Path) -> Iterator["Maker"]:
    before = set(sys.modules)
    path = list(sys.path)
    yield Maker(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(("sample_", "skyloom_functions")):
            del sys.modules[name]


class Maker:
    """Packs a text, and unpacks it where it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pack(self, text: str, *names: str, **options: object) -> Packed:
        path = self.folder / "sample_functions.py"
        path.write_text(text)
        return pack_functions(path, names, **options)  # type: ignore[arg-type]

    def unpack(self, made: Packed) -> type:
        out = self.folder / "bundle"
        for file in made.manifest.files:
            content = made.contents[file.path]
            content = content if isinstance(content, bytes) else content.read_bytes()
            assert digests.of_bytes(content) == file.digest
            (out / file.path).parent.mkdir(parents=True, exist_ok=True)
            (out / file.path).write_bytes(content)
        assert made.manifest.service is not None
        return find(out, made.manifest.service.entry, made.manifest.service.class_name)


def test_every_kind_of_function_runs_where_it_is_deployed_as_it_did_here(packed: Maker) -> None:
    made = packed.pack(ALL)
    spec = made.manifest.service
    assert spec is not None and spec.python is not None
    told = {one.name: (one.answering, one.timeout_s, one.concurrency) for one in spec.methods}
    assert told == {
        "plain": (Answering.WHOLE, 60.0, 1),
        "waiting": (Answering.WHOLE, 5.0, 3),
        "parts": (Answering.PARTS, 60.0, 1),
        "slow_parts": (Answering.PARTS, 60.0, 64),
    }
    assert (made.service.cpus, made.service.memory) == (2, str(2 * 2**30))
    assert spec.python.requirements == "rapidfuzz>=3\n"
    service = packed.unpack(made)()
    assert (service.plain(x=1), asyncio.run(service.waiting(x=1))) == (2, 3)
    assert list(service.parts(x=2)) == [0, 1]

    async def gathered() -> list[int]:
        return [one async for one in service.slow_parts(x=2)]

    assert asyncio.run(gathered()) == [0, 1]


def test_packages_of_a_decorator_may_stand_in_a_file_beside(packed: Maker) -> None:
    (packed.folder / "needs.txt").write_text("rapidfuzz\n")
    text = "import skyloom\n\n@skyloom.function(requirements='needs.txt')\ndef f() -> int:\n    return 1\n"
    spec = packed.pack(text).manifest.service
    assert spec is not None and spec.python is not None and spec.python.requirements == "rapidfuzz\n"


def test_named_functions_are_taken_and_options_of_the_command_come_first(packed: Maker) -> None:
    spec = packed.pack(TWO, "two", timeout_s=7.0, concurrency=2).manifest.service
    assert spec is not None
    (method,) = spec.methods
    assert (method.name, method.timeout_s, method.concurrency) == ("two", 7.0, 2)
    assert [(one.name, one.annotation, one.required) for one in method.parameters] == [("x", "int", False)]


@pytest.mark.parametrize(
    ("text", "names", "error"),
    [
        (TWO, (), FunctionsUnclear),
        ("x = 1\n", (), FunctionsUnclear),
        (TWO, ("three",), FunctionNotFound),
        (TWO, ("_hidden",), FunctionNotFound),
        ("def f(x): ...\n", (), InvalidInput),
        ("def f(*x: int): ...\n", (), InvalidInput),
        ("raise RuntimeError('no')\n", (), ServiceNotImportable),
    ],
)
def test_file_that_does_not_say_what_to_deploy_is_refused(
    packed: Maker, text: str, names: tuple[str, ...], error: type[SkyloomError]
) -> None:
    with pytest.raises(error):
        packed.pack(text, *names)


def test_file_with_the_name_of_a_module_of_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(TWO)
    with pytest.raises(ServiceNotImportable, match="name of a module"):
        pack_functions(tmp_path / "json.py", ("one",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", []),
        ('# /// script\n# dependencies = [\n#   "a>=1",\n#   "b",\n# ]\n# ///\n', ["a>=1", "b"]),
        ('"""Doc."""\n# /// script\n#\n# requires-python = ">=3.11"\n# ///\ny = 1\n', []),
        ("# /// other\n# dependencies = ['x']\n# ///\n", []),
    ],
)
def test_packages_stand_in_the_file_itself(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "a.py").write_text(text)
    assert inline_requirements(tmp_path / "a.py") == expected


@pytest.mark.parametrize(
    "text",
    [
        "# /// script\n# dependencies = [\n# ///\n",
        "# /// script\n# dependencies = 3\n# ///\n",
        2 * "# /// script\n# x = 1\n# ///\n\n",
    ],
)
def test_inline_metadata_that_cannot_be_read_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(InvalidInput):
        inline_requirements(tmp_path / "a.py")


def test_same_functions_are_the_same_bundle(packed: Maker) -> None:
    once, twice = packed.pack(TWO, "one"), packed.pack(TWO, "one")
    assert msgspec.json.encode(once.manifest) == msgspec.json.encode(twice.manifest)


def test_function_that_is_called_with_an_event_acts_for_it_and_for_no_other_call(packed: Maker) -> None:
    text = (
        "import skyloom\nfrom skyloom.sdk.connect import connect\n\n"
        "def whole(event: skyloom.TriggerEvent) -> str:\n"
        "    return connect('http://127.0.0.1:1').transport._client.headers.get('skyloom-because', '')\n\n"
        "async def waiting(event: skyloom.TriggerEvent) -> str:\n"
        "    return whole(event)\n\n"
        "def other(event: str) -> str:\n"
        "    return whole(event)\n"
    )
    service = packed.unpack(packed.pack(text, "whole", "waiting", "other"))()
    event = TriggerEvent(id="e", kind="http", trigger="t", at=1.0, subject="s", cause="inv_1")
    assert (service.whole(event=event), asyncio.run(service.waiting(event=event))) == ("inv_1", "inv_1")
    assert service.other(event="x") == ""
