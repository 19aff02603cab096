"""What a job may bring as its Python environment, and what is refused before anything is queued."""

import pytest

from skyloom.ports.engine import Ability
from skyloom.ports.environment import PythonEnvironment
from skyloom.rooms.jobs.environments import EnvironmentRefused, check

ABLE = {Ability.PYTHON_ENVIRONMENT}


@pytest.mark.parametrize(
    "text",
    [
        "numpy",
        "# only\nscikit-learn>=1.6,<2  # why\n\nrich[jupyter]==14.0\n",
        "--index-url https://packages.example/simple\ntorch\n",
        "--find-links https://packages.example/wheels\nmine",
        "--extra-index-url https://packages.example/simple\nmine",
        "mine @ https://packages.example/mine-1.0-py3-none-any.whl",
        "a \\\n  ==1.0",
    ],
)
def test_requirements_by_name_are_taken(text: str) -> None:
    check(PythonEnvironment(requirements=text), ABLE)


@pytest.mark.parametrize(
    "line",
    [
        "-r other.txt",
        "--requirement=other.txt",
        "-c bounds.txt",
        "-e .",
        "-rwork/../other.txt",
        "--find-links ./wheels",
        "-f /shared/wheels",
        "./mine-1.0.whl",
        "../mine",
        "/home/me/mine.whl",
        "file:///home/me/mine.whl",
        "mine @ file:///home/me/mine.whl",
        "mine @ ./mine.whl",
    ],
)
def test_requirement_that_is_a_file_of_the_asker_is_refused(line: str) -> None:
    with pytest.raises(EnvironmentRefused, match="names a file of this machine"):
        check(PythonEnvironment(requirements=f"numpy\n{line}\n"), ABLE)


def test_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(EnvironmentRefused, match="every reader") as refused:
        check(PythonEnvironment(requirements="--index-url https://me:secret@packages.example/simple"), ABLE)
    assert "secret" not in str(refused.value)


def test_password_in_an_address_of_a_pyproject_is_refused_and_not_repeated() -> None:
    text = '[project]\nname = "mine"\n[[tool.uv.index]]\nurl = "https://me:secret@packages.example/simple"\n'
    with pytest.raises(EnvironmentRefused, match="every reader") as refused:
        check(PythonEnvironment(pyproject=text), ABLE)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_empty_requirements_are_refused(text: str) -> None:
    with pytest.raises(EnvironmentRefused, match="empty"):
        check(PythonEnvironment(requirements=text), ABLE)


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(EnvironmentRefused, match="2000 lines"):
        check(PythonEnvironment(requirements="numpy\n" * 2_001), ABLE)


def test_pool_that_builds_none_refuses() -> None:
    with pytest.raises(EnvironmentRefused, match="does not build"):
        check(PythonEnvironment(requirements="numpy"), set())


def test_job_without_an_environment_is_no_business_of_ours() -> None:
    check(None, set())
