"""Building a Python environment with uv, as a part of a task's start: what uv says goes to the task's log.

The environment lies on top of the pool's own. So that uv sees what is there already, the descriptions of the pool's packages are
put into the new environment before uv resolves, and taken away after it: torch is then neither downloaded nor installed again,
and a package that the requirements want in another version is installed here and hides the pool's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_SHADOW = "skyloom-pool"  # what stands as the installer of a package that is only described here
_QUOTED_LINES, _QUOTED_CHARACTERS, _LOGGED_LINES = 6, 420, 300


class BuildFailed(Exception):
    """uv could not make the environment; the text says why, in uv's last words."""


def build(folder: str, plan: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    """Make the environment ``<folder>/venv``. Raises `BuildFailed`.

    Args:
        plan: ``uv``, ``base`` (the pool's interpreter), ``sites`` (its package folders), ``requirements``, ``pyproject``,
            ``version``, ``isolated``.
        variables: uv's own, with the machine's settings for indexes.
    """
    venv, uv, isolated = f"{folder}/venv", plan["uv"], plan["isolated"]
    wanted = (isolated and plan["version"]) or plan["base"]
    _run([uv, "venv", "--quiet", "--python", wanted, venv], folder, variables)
    packages = _packages_of(venv)
    given = _given(folder, plan)
    if given:
        shadows = [] if isolated else _shadow(plan["sites"], packages)
        inputs = [word for name in given for word in ("-r", name)]
        _run([uv, "pip", "install", "--python", f"{venv}/bin/python", *inputs], folder, variables)
        for shadow in shadows:
            _remove_shadow(shadow)
    if not isolated:
        _top_up(packages, plan["sites"])


def count(plan: Mapping[str, Any]) -> int:
    """How many packages a requirements file asks for by itself."""
    lines = (line.strip() for line in plan["requirements"].splitlines())
    return sum(1 for line in lines if line and line[0] not in "#-")


def _given(folder: str, plan: Mapping[str, Any]) -> list[str]:
    names = {"requirements": "requirements.txt", "pyproject": "pyproject.toml"}
    found = []
    for field, name in names.items():
        if plan[field]:
            with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
                file.write(plan[field])
            found.append(f"{folder}/{name}")
    return found


def _packages_of(venv: str) -> str:
    """Where the environment's packages lie: its only ``lib/python3.*`` folder knows the version."""
    version = next(name for name in sorted(os.listdir(f"{venv}/lib")) if name.startswith("python3"))
    return f"{venv}/lib/{version}/site-packages"


def _top_up(packages: str, sites: Sequence[str]) -> None:
    """Have the environment see the pool's packages after its own; editable installs of the pool too."""
    lines = "".join(f"import site; site.addsitedir({site!r})\n" for site in sites)
    with open(f"{packages}/skyloom_pool.pth", "w", encoding="utf-8") as file:
        file.write(lines)


def _shadow(sites: Sequence[str], packages: str) -> list[str]:
    """Describe the pool's packages in the new environment; returns the folders that do it. The first of two with one name counts."""
    made: dict[str, str] = {}
    for site in sites:
        for name in sorted(os.listdir(site)):
            source, package = f"{site}/{name}/METADATA", name.split("-", 1)[0].lower().replace("_", "-")
            if not name.endswith(".dist-info") or package in made or not os.path.isfile(source):
                continue
            target = f"{packages}/{name}"
            os.mkdir(target, 0o700)
            shutil.copyfile(source, f"{target}/METADATA")
            with open(f"{target}/INSTALLER", "w") as file:
                file.write(f"{_SHADOW}\n")
            with open(f"{target}/RECORD", "w") as file:
                file.write("".join(f"{name}/{part},,\n" for part in ("METADATA", "INSTALLER", "RECORD")))
            made[package] = target
    return list(made.values())


def _remove_shadow(folder: str) -> None:
    """Remove a description that uv left alone; a real package of the same version has another installer's name in it."""
    try:
        with open(f"{folder}/INSTALLER") as file:
            is_shadow = file.read().strip() == _SHADOW
    except FileNotFoundError:
        return
    if is_shadow:
        shutil.rmtree(folder)


def _run(argv: Sequence[str], folder: str, variables: Mapping[str, str]) -> None:
    """Run uv; its words go to the log, the last of them into the error. Raises `BuildFailed`."""
    said: list[str] = []
    try:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BuildFailed(f"{argv[0]} cannot be run: {error.strerror}") from None
    with process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            said.append(line.rstrip())
            if number < _LOGGED_LINES and line.strip() and not line.startswith("Using Python "):
                say(f"uv: {line.rstrip()}")
        code = process.wait()
    if code:
        raise BuildFailed(_last_words(said) or f"uv ended with code {code}")


def _last_words(said: Sequence[str]) -> str:
    """From uv's last ``error:`` on, in one line; without it, its last lines."""
    lines = [line.strip(" \t│├╰─▶×╭") for line in said if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("error")]
    shown = lines[starts[-1] :] if starts else lines
    return " ".join(shown[:_QUOTED_LINES])[:_QUOTED_CHARACTERS]


def say(text: str) -> None:
    """One line of ours in the task's log."""
    print(f"[skyloom] {text}", file=sys.stderr, flush=True)
