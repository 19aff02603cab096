"""Pure checks of the Python environment that a job brings: what can never be built, or would not be the same twice, is refused early."""

import re
from collections.abc import Collection, Iterator

from skyloom.core.errors import InvalidInput
from skyloom.ports.engine import Ability
from skyloom.ports.environment import PythonEnvironment

_MOST_LINES = 2_000
# They name files of the machine that asks, which the machine that builds does not have.
_LOCAL = re.compile(
    r"^(-[rce]|(--requirement|--constraint|--editable)\b)|^(-f|--find-links)[\s=]*+(?!https?://)"
    r"|^\.{0,2}/|^file:|@\s*(file:|\.{0,2}/)"
)
_PASSWORD = re.compile(r"://[^/\s@]+@")


class EnvironmentRefused(InvalidInput):
    """The Python environment that a job asks for cannot be built."""


def check(wanted: PythonEnvironment | None, abilities: Collection[Ability]) -> None:
    """Raise `EnvironmentRefused` for what no pool could build, or this one cannot."""
    if wanted is None:
        return
    if Ability.PYTHON_ENVIRONMENT not in abilities:
        raise EnvironmentRefused(
            "This pool does not build Python environments.",
            next_action="Leave the requirements out, or use another pool.",
        )
    if not wanted.requirements.strip() and not wanted.pyproject.strip() and not wanted.isolated:
        raise EnvironmentRefused(
            "The requirements are empty.", next_action="Name at least one package, or leave them out."
        )
    if len(wanted.requirements.splitlines()) > _MOST_LINES:
        raise EnvironmentRefused(
            f"The requirements have more than {_MOST_LINES} lines.",
            next_action="Name only what the job itself imports.",
        )
    for line in _lines(wanted.requirements):
        _check_line(line)
    for line in wanted.pyproject.splitlines():
        _check_password(line.strip())


def _lines(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        stripped = re.sub(r"(^|\s)#.*$", "", line).strip()
        if stripped:
            yield stripped


def _check_line(line: str) -> None:
    if _LOCAL.search(line):
        raise EnvironmentRefused(
            f"The requirement {_shown(line)} names a file of this machine.",
            next_action="Name packages and versions; write out what included files say; bring own code with --include.",
        )
    _check_password(line)


def _check_password(line: str) -> None:
    if _PASSWORD.search(line):
        raise EnvironmentRefused(
            f"The requirement {_shown(_PASSWORD.sub('://…@', line))} holds a user name or password, "
            "which every reader of the job would see.",
            next_action="Set the index up on the machine that builds: UV_INDEX, or its pip.conf.",
        )


def _shown(line: str) -> str:
    return repr(line[:100])
