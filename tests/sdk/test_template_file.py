"""Template files: read strictly, with the place of every mistake, and harmless whatever stands in them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.core.errors import SkyloomError
from skyloom.ports.engine import Command, PythonFile
from skyloom.rooms.jobs.model import Condition
from skyloom.rooms.secrets.model import SecretUse
from skyloom.rooms.templates.model import PlanTemplate
from skyloom.sdk.template_file import read_template
from skyloom.sdk.yaml_nodes import MAX_BYTES, YamlUnreadable, read_yaml

WHOLE = """
name: nightly
jobs:
  prepare: {script: prepare.py, args: [--fast], include: [lib], cpus: 2, memory: 2GiB, max_duration: 2h}
  sweep:
    command: [echo, 3]
    size: 100
    max_parallel: 10
    after: [prepare]
    environment: {DEBUG: true, LEVEL: 3}
    secrets: {db-password: PASSWORD}
  report: {command: [echo], after: {sweep: ended}, secrets: [db-password]}
schedules:
  tidy: {command: [echo], cron: "@daily", time_zone: Europe/Berlin, missed: run_once}
"""


class NoCloud:
    """A transport that takes files and nothing else."""

    project = url = token = ""

    def __init__(self) -> None:
        self.uploaded: list[str] = []

    def send(self, ask: Any, key: str | None = None) -> Any:
        raise AssertionError("nothing is to be sent")

    def upload(self, chunks: Callable[[], Iterable[bytes]], digest: str) -> None:
        self.uploaded.append(digest)


def read(folder: Path, text: str) -> PlanTemplate:
    path = folder / "cloud.yaml"
    path.write_text(text)
    return read_template(path, NoCloud())  # type: ignore[arg-type]


def test_template_file_becomes_jobs_arrays_and_schedules(tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text("print(1)")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "more.py").write_text("x = 1")
    made = read(tmp_path, WHOLE)
    prepare, sweep, report = (made.jobs[name] for name in ("prepare", "sweep", "report"))
    assert prepare.spec.entry == PythonFile(path="prepare.py", args=("--fast",))
    assert set(prepare.spec.files) == {"prepare.py", "lib/more.py"}
    assert (prepare.spec.resources.cpus, prepare.spec.max_duration_s) == (2.0, 7_200.0)
    assert (sweep.spec.entry, sweep.size, sweep.max_parallel) == (Command(argv=("echo", "3")), 100, 10)
    assert sweep.spec.environment == {"DEBUG": "true", "LEVEL": "3"}
    assert sweep.spec.secrets == (SecretUse(name="db-password", variable="PASSWORD"),)
    assert report.after == {"sweep": Condition.ENDED}
    assert report.spec.secrets == (SecretUse(name="db-password"),)
    assert made.schedules["tidy"].time_zone == "Europe/Berlin"


def test_template_of_the_documentation_is_one_with_all_of_its_files() -> None:
    file = Path(__file__).parents[2] / "examples" / "nightly" / "nightly.yaml"  # docs/jobs.md prints it
    made = read_template(file, NoCloud())  # type: ignore[arg-type]
    assert (set(made.jobs), set(made.schedules)) == ({"prepare", "sweep", "report"}, {"tidy"})


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("name: x\njobs:\n  a: {command: [b], cpu: 1}", "line 3, column 21", "jobs.a.cpu is unknown"),
        ("name: x\njobs:\n  a: {command: [b], cpus: many}", "line 3, column 27", "has to be a number"),
        ("name: x\njobs:\n  a: {command: [b], cpus: .inf}", "line 3, column 27", "number"),
        ("name: x\njobs:\n  a: {command: [b], size: 0}", "line 3, column 27", "1 or more"),
        ("name: x\njobs:\n  a: {command: [b], size: 10001}", "line 3, column 6", "10000"),
        ("name: x\njobs:\n  a: {}", "line 3, column 6", "command or a script"),
        ("name: x\njobs:\n  a: {command: [b], script: c.py}", "line 3, column 6", "command or a script"),
        ("name: x\njobs:\n  a: {command: b}", "line 3, column 16", "list"),
        ("name: x\njobs: [a]", "line 2, column 7", "map"),
        ("jobs:\n  a: {command: [b]}", "line 1, column 1", "lacks 'name'"),
        ("name: Bad Name\njobs:\n  a: {command: [b]}", "line 1, column 1", "$.name"),
        ("name: x", "line 1, column 1", "describes nothing"),
        ("name: x\njobs:\n  a: {command: [b]}\n  a: {command: [b]}", "line 4, column 3", "given twice"),
        ("name: x\njobs:\n  a: {script: none.py}", "line 3, column 6", "none.py"),
        ("name: x\njobs:\n  a: {command: [b], include: [../up]}", "line 3, column 31", "below the folder"),
        ("name: x\njobs:\n  a: {command: [b], include: [/etc]}", "line 3, column 31", "below the folder"),
        ("name: x\njobs:\n  a: {command: [b], after: {c: maybe}}", "line 3, column 32", "succeeded, ended"),
        ("name: x\njobs:\n  a: {command: [b], memory: lots}", "line 3, column 29", "no size"),
        ("name: x\njobs:\n  a: {command: [b], max_duration: 3 weeks}", "line 3, column 35", "no duration"),
        ("name: x\njobs:\n  a: {command: [b], secrets: [A_B]}", "line 3, column 6", "cannot be meant"),
        ("name: x\nschedules:\n  a: {command: [b]}", "line 3, column 6", "lacks 'cron'"),
        ("name: x\nschedules:\n  a: {command: [b], cron: x, missed: no}", "line 3, column 38", "skip, run_once"),
        ("name: [\n", "line 2", "expected"),
        ("name: !!python/object/apply:os.system [id]", "line 1, column 7", "tag"),
        ("a: &a [*a]", "line 1, column 4", "too much"),
        ("", "", "empty"),
        ("\x01", "", "no YAML"),
        ("name: x\n---\nname: y", "line 2", "another document"),
    ],
)
def test_mistake_in_a_template_file_is_told_with_its_place(tmp_path: Path, text: str, where: str, what: str) -> None:
    with pytest.raises(YamlUnreadable) as raised:
        read(tmp_path, text)
    assert where in raised.value.message
    assert what in raised.value.message


def test_alias_bomb_and_depth_bomb_and_large_file_are_refused_at_once(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    for text in (bomb, "[" * 100_000, "{a: " * 5_000, "- " * 50_000, "x" * (MAX_BYTES + 1)):
        with pytest.raises(YamlUnreadable):
            read(tmp_path, text)


def test_alias_that_stays_small_is_allowed(tmp_path: Path) -> None:
    made = read(tmp_path, "name: x\njobs:\n  a: &a {command: [b]}\n  c: *a\n")
    assert made.jobs["a"] == made.jobs["c"]


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("[]{}:,-&*!|>'\"#%@`ab\n \t?"), max_size=60))
def test_any_text_is_read_or_refused_with_words(text: str) -> None:
    try:
        read_yaml(text, "file").fields(frozenset({"a"}))
    except SkyloomError as error:
        assert error.message and error.next_action
