"""Secret variables: in the process, in no plan, and gone at the end."""

from pathlib import Path

import pytest

from skyloom.engines.local import LocalEngine
from skyloom.ports.engine import Command, EndReason, Entry, PythonCall, PythonFile, TaskPlan
from skyloom.ports.environment import PythonEnvironment
from tests.contracts.engine_contract import gang, log, program, sh, wait
from tests.engines.packages import offline, wheel

CANARY = "c4nary-v4lue"
SOURCE = "import os\ndef tell():\n    print(len(os.environ['PASSWORD']))\nif __name__ == '__main__':\n    tell()\n"


@pytest.mark.parametrize("warm", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_secret_variable_reaches_every_kind_of_program_and_no_file_that_stays(tmp_path: Path, warm: bool) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=warm)
    assert engine.wait_until_warm(60) is warm
    files = program(tmp_path, SOURCE)
    shown = Command(argv=("sh", "-c", "printf '%s' \"$PASSWORD\" | wc -c; ls -a $SKYLOOM_TASK_FOLDER/secrets"))
    entries: list[Entry] = [shown, PythonFile(path="main.py"), PythonCall(path="main.py", function="tell")]
    for number, entry in enumerate(entries):
        plan = TaskPlan(task_id=f"t{number}", entry=entry, files=files, secret_variables={"PASSWORD": CANARY})
        engine.launch(gang(plan))
        assert wait(engine, f"t{number}").reason is EndReason.COMPLETED, log(engine, f"t{number}")
        assert log(engine, f"t{number}").split()[0] == str(len(CANARY)).encode()
    engine.close()
    left = [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert left == []


def test_secret_variable_with_an_impossible_name_is_refused_without_its_value(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "tasks", warm=False)
    engine.launch(gang(TaskPlan(task_id="t", entry=sh("true"), secret_variables={"1=": CANARY})))
    seen = wait(engine, "t")
    assert seen.reason is EndReason.LAUNCH_FAILED
    assert CANARY not in seen.message
    engine.close()


def test_secret_variable_reaches_a_task_with_an_environment_of_its_own(tmp_path: Path) -> None:
    wheel(tmp_path / "links", "alpha")
    engine = LocalEngine(tmp_path / "tasks", warm=False, package_variables=offline(tmp_path / "links", tmp_path / "uv"))
    source = "import alpha, os; print(len(os.environ['PASSWORD']))"
    plan = TaskPlan(
        task_id="t",
        entry=Command(argv=("python", "-c", source)),
        python=PythonEnvironment(requirements="alpha"),
        secret_variables={"PASSWORD": CANARY},
    )
    engine.launch(gang(plan))
    assert wait(engine, "t").reason is EndReason.COMPLETED, log(engine, "t")
    assert log(engine, "t").split()[-1] == str(len(CANARY)).encode()
    engine.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
