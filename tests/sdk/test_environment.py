"""Requirements as people have them, as a job's environment."""

from pathlib import Path

import pytest

from skyloom.ports.environment import PythonEnvironment
from skyloom.sdk.environment import RequirementsUnreadable, python_environment, spec_fields
from skyloom.sdk.files import LocalFileMissing


def test_file_is_sent_as_the_kind_that_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    assert python_environment(tmp_path / "requirements.txt") == PythonEnvironment(requirements="numpy\n")
    assert python_environment(str(tmp_path / "pyproject.toml")) == PythonEnvironment(pyproject="[project]\n")


def test_list_of_packages_is_a_requirements_file() -> None:
    assert python_environment(["numpy", "rich>=14"]) == PythonEnvironment(requirements="numpy\nrich>=14\n")


def test_nothing_is_nothing_and_isolated_alone_is_an_empty_environment() -> None:
    assert python_environment(None) is None
    assert python_environment(None, isolated=True) == PythonEnvironment(isolated=True)


def test_missing_or_binary_or_huge_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LocalFileMissing):
        python_environment(tmp_path / "nowhere.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequirementsUnreadable, match="is no text"):
        python_environment(tmp_path / "binary.txt")
    (tmp_path / "huge.txt").write_bytes(b"a" * 100_001)
    with pytest.raises(RequirementsUnreadable, match="100000 bytes"):
        python_environment(tmp_path / "huge.txt")


def test_options_become_fields_of_the_spec() -> None:
    assert spec_fields({"name": "x"}) == {"name": "x"}
    assert spec_fields({"name": "x", "requirements": ["a"], "isolated": True}) == {
        "name": "x",
        "python": PythonEnvironment(requirements="a\n", isolated=True),
    }
