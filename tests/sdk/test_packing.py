"""What a service's class and file say about it, and what is taken along."""

from collections.abc import Iterator
from typing import Annotated, TypedDict

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import skyloom
from skyloom.rooms.registry.bundle import Datatype, RuntimeName
from skyloom.rooms.registry.rules import check_manifest
from skyloom.rooms.registry.services import Answering
from skyloom.sdk.describing import ServiceInvalid, describe
from skyloom.sdk.packing import ServiceNotFound, ServiceNotImportable, ServiceNotPackable, load_service, pack

Rows = Annotated[NDArray[np.float32], skyloom.Tensor(-1, 4)]


class Pair(TypedDict):
    first: Rows
    second: Annotated[NDArray[np.int64], skyloom.Tensor(-1)]


class Whole(skyloom.Service):
    """All kinds.

    More words.
    """

    @skyloom.endpoint
    def plain(self, text: str, count: int = 2) -> list[str]:
        """Repeat."""
        return [text] * count

    @skyloom.endpoint(concurrency=3, timeout_s=5)
    async def parts(self, text: str) -> Iterator[int]:
        yield len(text)

    @skyloom.endpoint(batch=16)
    def many(self, texts: list[str]) -> list[float]:
        return [0.0] * len(texts)

    @skyloom.endpoint
    def tensors(self, rows: Rows) -> Pair:
        raise NotImplementedError


def test_service_is_described_by_its_types() -> None:
    spec, signature = describe(Whole, "service/whole.py")
    methods = {method.name: method for method in spec.methods}
    assert methods["plain"].doc == "Repeat."
    assert [(one.name, one.annotation, one.required) for one in methods["plain"].parameters] == [
        ("text", "str", True),
        ("count", "int", False),
    ]
    assert (methods["parts"].answering, methods["parts"].returns, methods["parts"].concurrency) == (
        Answering.PARTS,
        "int",
        3,
    )
    assert methods["many"].parameters[0].annotation == "str" and methods["many"].returns == "float"
    assert methods["plain"].concurrency == 1
    assert spec.tensors == "tensors"
    assert [(one.name, one.datatype, one.shape) for one in signature.outputs] == [
        ("first", Datatype.FP32, (-1, 4)),
        ("second", Datatype.INT64, (-1,)),
    ]


def untyped(self, text):
    return text


def unlisted(self, text: str) -> list[str]:
    return [text]


def unmarked(self, text: str) -> str:
    return text


def misnamed(self, text: str) -> str:
    return text


def unsendable(self, text: str) -> msgspec.json.Decoder:
    raise NotImplementedError


def open_ended(self, *texts: str) -> str:
    return ""


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("ask", skyloom.endpoint(untyped), "does not say what 'text' of ask is"),
        ("ask", skyloom.endpoint(batch=4)(unlisted), "not all its types are lists"),
        ("ask", skyloom.endpoint(unsendable), "cannot send its result of ask"),
        ("ask", skyloom.endpoint(open_ended), r"takes \*texts"),
        ("metrics", skyloom.endpoint(misnamed), "cannot offer an endpoint 'metrics'"),
        ("ask", unmarked, "has no endpoint"),
    ],
)
def test_class_that_cannot_be_served_is_refused(name, method, words) -> None:
    kind = type("Odd", (skyloom.Service,), {name: method})
    with pytest.raises(ServiceInvalid, match=words):
        describe(kind, "service/odd.py")


SOURCE = """
import json
import skyloom
import beside
from parcel.inner import word

class MyReviews(skyloom.Service):
    files = ("words.txt", "lists/*.txt")
    requirements = ["humanize"]
    @skyloom.endpoint
    def ask(self, text: str) -> str:
        return beside.LETTER + word + text
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "service_one.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text("import below\nLETTER = below.LETTER\n")
    (tmp_path / "below.py").write_text("LETTER = 'a'\n")
    (tmp_path / "stranger.py").write_text("raise RuntimeError\n")
    (tmp_path / "parcel").mkdir()
    (tmp_path / "parcel" / "__init__.py").write_text("")
    (tmp_path / "parcel" / "inner.py").write_text("word = 'b'\n")
    (tmp_path / "words.txt").write_text("one")
    (tmp_path / "lists").mkdir()
    for name in ("a.txt", "b.txt", "c.bin"):
        (tmp_path / "lists" / name).write_text(name)
    return tmp_path


def test_service_takes_what_it_imports_and_names_and_nothing_else(folder) -> None:
    packed = pack(f"{folder / 'service_one.py'}:MyReviews")
    assert packed.name == "my-reviews"
    assert {file.path.removeprefix("service/") for file in packed.manifest.files} == {
        "service_one.py",
        "beside.py",
        "below.py",
        "parcel/__init__.py",
        "parcel/inner.py",
        "words.txt",
        "lists/a.txt",
        "lists/b.txt",
    }
    assert packed.manifest.runtime is RuntimeName.SERVICE
    assert packed.manifest.service.python.requirements == "humanize\n"
    check_manifest(packed.manifest)
    assert pack(packed.service).manifest == packed.manifest
    assert load_service(str(folder / "service_one.py"))[0].__name__ == "MyReviews"


def test_what_cannot_be_packed_is_told(folder) -> None:
    path = folder / "service_one.py"
    with pytest.raises(ServiceNotFound, match="There is no file"):
        pack(str(folder / "nothing.py"))
    with pytest.raises(ServiceNotFound, match="MyReviews"):
        pack(f"{path}:Other")
    for name in ("gone.txt", "../outside.txt"):
        (folder.parent / "outside.txt").write_text("x")
        path.write_text(SOURCE.replace("words.txt", name))
        with pytest.raises(ServiceNotPackable, match="that is not there"):
            pack(str(path))
    path.write_text(SOURCE + "\nimport not_installed_anywhere\n")
    with pytest.raises(ServiceNotImportable, match="not_installed_anywhere"):
        pack(str(path))


@pytest.mark.parametrize(
    ("text", "name", "says", "next_action"),
    [
        ("x = 1\n", "", "has no service.", "Write: class"),
        ("class A(S): ...\nclass B(S): ...\n", "", "has several services.", ":A, "),
        ("class A(S): ...\n", ":C", "has no service 'C'.", ":A."),
    ],
)
def test_file_without_the_service_says_which_it_has(tmp_path, text, name, says, next_action) -> None:
    (tmp_path / "many.py").write_text("from skyloom import Service as S\n" + text)
    with pytest.raises(ServiceNotFound) as refused:
        load_service(f"{tmp_path / 'many.py'}{name}")
    assert says in refused.value.message and next_action in refused.value.next_action
