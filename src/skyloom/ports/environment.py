"""What a task has around its program: the Python packages it needs, and folders it reads. Plain data; engines make them real."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Digest, RelativePath

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


class MountFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a mount.

    Attributes:
        digest: of its bytes; of its rows (`skyloom.tables.rows.ContentDigest`) when ``is_rows``.
        route: where the control plane answers with its bytes, below the project.
        is_rows: it is a Parquet file, whose bytes depend on who writes it and whose rows do not.
    """

    path: RelativePath
    digest: Digest
    route: Annotated[str, Meta(min_length=1, max_length=600)]
    is_rows: bool = False


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that a task only reads: exactly this version of a dataset, or of a model. Its files never change.

    Attributes:
        name: of the folder, below ``SKYLOOM_MOUNTS``.
        subject: what it is: ``dataset:digits:3``.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$(?!\n)")]
    subject: Annotated[str, Meta(max_length=300)]
    files: Annotated[tuple[MountFile, ...], Meta(min_length=1, max_length=1_000)]
