"""Python environments of tasks, planned: where each lies, and what building it needs. `supervisor/start.py` builds them.

An environment is known by all that decides what is in it: the requirements, the interpreter, the pool's own packages. Two tasks
that ask for the same share one folder.
"""

import configparser
import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from skyloom.ports.environment import PythonEnvironment

_LAYOUT = 1  # another number when a folder of an older Skyloom must not be used
_ASK = """
import json, platform, sys
sites = [path for path in sys.path if path.rpartition("/")[2] in ("site-packages", "dist-packages")]
told = {"version": list(sys.version_info[:3]), "platform": [platform.machine(), *platform.libc_ver()], "sites": sites}
print(json.dumps({**told, "prefix": sys.prefix, "implementation": sys.implementation.cache_tag}))
"""
_CLAUSE = re.compile(r"(===|==|!=|>=|<=|~=|>|<)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?")


class PythonUnusable(Exception):
    """The environment cannot be built on this machine; the text says why."""


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """What an interpreter says of itself."""

    version: tuple[int, int, int]
    platform: tuple[str, ...]
    sites: tuple[str, ...]
    prefix: str
    implementation: str


@dataclass(frozen=True)
class PlannedPython:
    """One environment: its interpreter, and what the start of a task is told to build it."""

    python: str
    start: dict[str, Any]


class Pythons:
    """Plans environments on top of one interpreter. Thread-safe.

    Args:
        root: folder of the built ones; any engine of this user on this machine may use the same.
        base: the pool's interpreter.
        variables: for uv: indexes, caches, proxies (`skyloom.settings.package_variables`).
        search: folders where uv is looked for, as in ``PATH``.
    """

    def __init__(self, root: Path, base: str, variables: Mapping[str, str], search: str, max_bytes: int) -> None:
        self._root = root.absolute()
        self._base = base
        self._variables = variables
        self._search = search
        self._max_bytes = max_bytes
        self._interpreter: Interpreter | None = None
        self._lock = threading.Lock()

    def plan(self, wanted: PythonEnvironment) -> PlannedPython:
        """Say where an environment lies and how it is built. Raises `PythonUnusable`."""
        uv = shutil.which("uv", path=self._search)
        if uv is None:
            raise PythonUnusable(
                "building a Python environment needs uv, which is not installed on this machine (pip install uv)"
            )
        base = self._asked()
        _check_version(wanted, base.version)
        key = _key(wanted, self._base, base)
        start = {
            "root": str(self._root),
            "key": key,
            "max_bytes": self._max_bytes,
            "uv": uv,
            "base": self._base,
            "sites": base.sites,
            **msgspec.structs.asdict(wanted),
        }
        return PlannedPython(str(self._root / key / "venv" / "bin" / "python"), start)

    def build_variables(self, temporary: str) -> dict[str, str]:
        """The environment of uv itself."""
        home = pwd.getpwuid(os.getuid()).pw_dir
        clean = {"PATH": self._search, "HOME": home, "LANG": "C.UTF-8", "TMPDIR": temporary}
        fixed = {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
        return {**clean, **_pip_files(Path(home)), **self._variables, **fixed}

    def _asked(self) -> Interpreter:
        with self._lock:
            if self._interpreter is None:
                try:
                    answer = subprocess.run(
                        [self._base, "-I", "-c", _ASK], capture_output=True, check=True, timeout=30, env={}
                    )
                    self._interpreter = msgspec.json.decode(answer.stdout, type=Interpreter)
                except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
                    raise PythonUnusable(f"the pool's Python {self._base} does not answer: {error}") from None
            return self._interpreter


def _key(wanted: PythonEnvironment, base: str, interpreter: Interpreter) -> str:
    """Everything that decides what is in an environment, as one digest. Of the pool's packages, names and versions count."""
    said = [_LAYOUT, msgspec.to_builtins(wanted), base, msgspec.to_builtins(interpreter)]
    if not wanted.isolated:
        said += [sorted(path.name for path in Path(site).glob("*.dist-info")) for site in interpreter.sites]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _check_version(wanted: PythonEnvironment, version: tuple[int, int, int]) -> None:
    """Raise `PythonUnusable` when the job needs another Python than the environment will have."""
    shown = ".".join(map(str, version))
    if wanted.version and not wanted.isolated and wanted.version != f"{version[0]}.{version[1]}":
        raise PythonUnusable(
            f"the job needs Python {wanted.version}, this pool has {shown}; ask for an isolated environment, or for {shown[:4]}"
        )
    asked = _requires_python(wanted.pyproject)
    if asked and not wanted.version and not allows(asked, version):
        raise PythonUnusable(f"pyproject.toml requires Python {asked}, this pool has {shown}")


def _requires_python(pyproject: str) -> str:
    import tomllib  # only for jobs that bring one

    try:
        asked = tomllib.loads(pyproject).get("project", {}).get("requires-python", "")
    except (tomllib.TOMLDecodeError, AttributeError):
        return ""  # uv says what is wrong with it, with the line
    return asked if isinstance(asked, str) else ""


def allows(specifier: str, version: tuple[int, int, int]) -> bool:
    """True when a ``requires-python`` allows a version. A clause that cannot be read forbids nothing: uv reads it too."""
    return all(_holds(match, version) for match in _CLAUSE.finditer(specifier))


def _holds(clause: re.Match[str], version: tuple[int, int, int]) -> bool:
    sign, prefix = clause[1], bool(clause[3])
    parts = tuple(int(part) for part in clause[2].split("."))[:3]
    padded = (*parts, 0, 0)[:3]
    if sign in ("==", "===", "!="):
        same = version[: len(parts)] == parts if prefix else version == padded
        return same is (sign != "!=")
    if sign == "~=":
        return version >= padded and version[: len(parts) - 1] == parts[:-1]
    return {">=": version >= padded, "<=": version <= padded, ">": version > padded, "<": version < padded}[sign]


def _pip_files(home: Path) -> dict[str, str]:
    """What the machine's pip is configured to, in uv's words: who set pip up need not do it twice."""
    parser = configparser.RawConfigParser()
    try:
        parser.read([Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"])
    except (configparser.Error, OSError, UnicodeDecodeError):
        return {}
    options = {
        name: value
        for part in ("global", "install")
        if parser.has_section(part)
        for name, value in parser[part].items()
    }
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}
    found = {ours: " ".join(options[theirs].split()) for theirs, ours in names.items() if options.get(theirs)}
    if options.get("find-links"):
        found["UV_FIND_LINKS"] = ",".join(options["find-links"].split())
    return found
