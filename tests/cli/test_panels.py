"""Help in panels: every option once, each where it is put, and examples that can be typed."""

import importlib
import re
import shlex

import pytest
from typer.main import get_command

from skyloom.cli import main


@pytest.mark.parametrize(
    ("words", "first"), [(["deploy"], "--name"), (["job", "run"], "--name"), (["predict"], "--model")]
)
@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_shows_every_option_once_and_fits_the_terminal(
    words: list[str], first: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main([*words, "--help"]) == 0
    told = capsys.readouterr().out
    listed = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", told, re.MULTILINE)
    command = _command(words)
    known = [
        next(word for word in param.opts if word.startswith("--"))
        for param in command.params
        if param.opts[0][0] == "-"
    ]
    assert sorted(listed) == sorted([*known, "--help"])
    assert listed[0] == first
    assert "\nOptions:" not in told, "each is in a panel"
    assert max(map(len, told.splitlines()[1:])) <= int(columns)


@pytest.mark.parametrize(
    "words", [["deploy"], ["job", "run"], ["predict"], ["function", "deploy"], ["function", "call"]], ids=" ".join
)
def test_examples_of_help_can_be_read_by_the_command(words: list[str]) -> None:
    command, said = _command(words), " ".join(["skyloom", *words, ""])
    examples = [line.strip().removeprefix(said) for line in (command.epilog or "").splitlines() if said in line]
    assert examples
    for example in examples:
        command.make_context("it", shlex.split(example))


def _command(words: list[str]):  # type: ignore[no-untyped-def]
    command = get_command(importlib.import_module(f"skyloom.cli.{words[0]}").app)
    for word in words[1:]:
        command = command.commands[word]  # type: ignore[attr-defined]
    return command


@pytest.mark.parametrize("words", [["deploy"], ["job", "run"], ["endpoint", "route"], ["function", "deploy"]])
def test_help_has_words_and_no_names_of_types(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    assert not re.findall(r"<(?:str|int|float|list|path)[^|>]*>", capsys.readouterr().out)


@pytest.mark.parametrize("noun", ["endpoint", "function"])
def test_list_of_verbs_is_not_cut_at_80_columns(
    noun: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([noun, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]
