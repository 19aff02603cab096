"""What a task brings beside its program: the Python packages it needs, and folders it reads. Plain data; engines make them real."""

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_REQUIREMENTS_CHARACTERS = 100_000


class PythonEnvironment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The packages that a job's Python needs. The engine builds them once for each machine and keeps them.

    A job's environment lies on top of the pool's own: what the pool has (torch, Skyloom itself) is used as it is, unless the
    requirements ask for another version.

    Attributes:
        requirements: the text of a ``requirements.txt``.
        pyproject: the text of a ``pyproject.toml``; its dependencies are installed, the project itself is not.
        version: Python that the job needs, as ``3.12``; empty takes the pool's.
        isolated: nothing of the pool is visible, Skyloom's runtime included; ``version`` may then be any that the machine has.
    """

    requirements: Annotated[str, Meta(max_length=MAX_REQUIREMENTS_CHARACTERS, pattern=r"^[^\x00]*$")] = ""
    pyproject: Annotated[str, Meta(max_length=MAX_REQUIREMENTS_CHARACTERS, pattern=r"^[^\x00]*$")] = ""
    version: Annotated[str, Meta(pattern=r"^(3\.[0-9]{1,2})?$(?!\n)")] = ""
    isolated: bool = False
