"""A Python environment from what people have: a ``requirements.txt``, a ``pyproject.toml``, or a list of packages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skyloom.core.errors import InvalidInput
from skyloom.ports.environment import MAX_REQUIREMENTS_CHARACTERS, PythonEnvironment
from skyloom.sdk.files import read_chunks
from skyloom.sdk.secrets import secret_uses

Requirements = str | Path | Sequence[str] | None


class RequirementsUnreadable(InvalidInput):
    """The file does not hold requirements that can be sent."""


def python_environment(requirements: Requirements, *, isolated: bool = False) -> PythonEnvironment | None:
    """What a job brings, or None for nothing.

    Args:
        requirements: path of a file here, or the packages themselves: ``["scikit-learn>=1.6"]``.
        isolated: see `PythonEnvironment`.

    Raises `LocalFileMissing`, `NotAFile`, `RequirementsUnreadable`.
    """
    if requirements is None:
        return PythonEnvironment(isolated=True) if isolated else None
    if isinstance(requirements, str | Path):
        path = Path(requirements)
        text = _text(path)
        if path.suffix == ".toml":
            return PythonEnvironment(pyproject=text, isolated=isolated)
        return PythonEnvironment(requirements=text, isolated=isolated)
    return PythonEnvironment(requirements="".join(f"{line}\n" for line in requirements), isolated=isolated)


def spec_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a job as fields of its spec: ``requirements`` and ``isolated`` become ``python``, names of secrets what is asked of
    them, ``num_workers=(1, 8)`` the sizes of an elastic gang; the others stay."""
    fields = dict(options)
    if "secrets" in fields:
        fields["secrets"] = secret_uses(fields["secrets"])
    if isinstance(sizes := fields.get("num_workers"), tuple):
        fields["num_workers"], fields["max_workers"] = sizes
    asked = python_environment(fields.pop("requirements", None), isolated=fields.pop("isolated", False))
    return {**fields, "python": asked} if asked else fields


def _text(path: Path) -> str:
    content = b"".join(read_chunks(path))
    if len(content) > MAX_REQUIREMENTS_CHARACTERS:
        raise RequirementsUnreadable(
            f"{path} has more than {MAX_REQUIREMENTS_CHARACTERS} bytes.", next_action="Name only what the job imports."
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RequirementsUnreadable(f"{path} is no text: {error}.", next_action="Save it as UTF-8.") from error
