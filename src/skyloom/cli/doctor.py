"""``skyloom doctor``: look at this machine and at the cloud's folder, and say what to mend. It changes nothing."""

import enum
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import typer

from skyloom.cli.frame import AsJson, word
from skyloom.cli.render import show
from skyloom.cli.up import Home, answers
from skyloom.core.resources import show_bytes
from skyloom.sdk.running import running
from skyloom.settings import Settings

_LOW_DISK_BYTES = 5 * 2**30
_NO_DISK_BYTES = 2**29
_EXTRAS = {
    "local": (
        *("starlette", "uvicorn", "httptools", "prometheus_client", "cronsim", "cryptography", "uv"),
        *("numpy", "scipy", "pyarrow", "lance", "polars", "PIL", "onnxruntime", "grpc"),
    ),
    "train": ("torch", "onnx", "onnxscript", "safetensors"),
}
_INSTALL_TORCH = "pip install torch==2.13.0"
_CGROUPS = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")

app = word("Check this machine and say what to mend.")


class Grade(enum.StrEnum):
    """How a check came out. Only `FAIL` keeps the cloud from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the doctor: what was looked at, what was found, what to do about it."""

    check: str
    grade: Grade
    found: str
    next_action: str = ""


@app.command()
def doctor(home: Home = None, as_json: AsJson = False) -> None:
    """Check this machine and the cloud's folder. Exits with 1 when something has to be mended first."""
    settings = Settings.read(home=home and home.expanduser().absolute())
    findings = [check(settings) for check in CHECKS]
    show(findings, as_json)
    if any(finding.grade is Grade.FAIL for finding in findings):
        raise typer.Exit(1)


def _python(_settings: Settings) -> Finding:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.platform != "linux":
        return _fail("python", f"{found}, on {sys.platform}", "Jobs need Linux; use a Linux machine or container.")
    return _ok("python", found)


def _extra(name: str) -> Callable[[Settings], Finding]:
    def check(_settings: Settings) -> Finding:
        missing = [module for module in _EXTRAS[name] if importlib.util.find_spec(module) is None]
        if not missing:
            return _ok(f"extra {name}", ", ".join(_EXTRAS[name]))
        grade = Grade.FAIL if name == "local" else Grade.WARN
        action = f"pip install 'skyloom[{name}]'" + (f", after: {_INSTALL_TORCH}" if name == "train" else "")
        return Finding(check=f"extra {name}", grade=grade, found=f"missing: {', '.join(missing)}", next_action=action)

    return check


def _folder(settings: Settings) -> Finding:
    home: Path = settings.home
    if not home.exists():
        parent = next(folder for folder in home.parents if folder.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return _ok("folder", f"{home}, made by the first skyloom up")
        return _fail("folder", f"{home} cannot be made", f"Get write access to {parent}, or set SKYLOOM_HOME.")
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return _fail("folder", f"{home} is not this user's to write", "Get write access, or set SKYLOOM_HOME.")
    private = ("", "token", "secret", "master")
    exposed = [str(home / name) for name in private if (home / name).exists() and (home / name).stat().st_mode & 0o077]
    if exposed:
        return _warn("folder", f"others can read {', '.join(exposed)}", f"chmod go= {' '.join(exposed)}")
    return _ok("folder", str(home))


def _disk(settings: Settings) -> Finding:
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found = f"{show_bytes(free)} free at {place}"
    if free < _NO_DISK_BYTES:
        return _fail("disk", found, "Free some space, or choose another folder with SKYLOOM_HOME.")
    return (
        _warn("disk", found, "Datasets and models need room: free some.")
        if free < _LOW_DISK_BYTES
        else _ok("disk", found)
    )


def _control_plane(settings: Settings) -> Finding:
    record = running(settings.home)
    if record is None:
        if (settings.home / "server.json").exists():
            return _warn("control plane", "it was killed; nothing is lost", "Start it again: skyloom up --detach")
        return _ok("control plane", "not running")
    if not answers(record.url):
        return _fail("control plane", f"process {record.pid} does not answer at {record.url}", "skyloom down, then up.")
    return _ok("control plane", f"answers at {record.url}, process {record.pid}, version {record.version}")


def _port(settings: Settings) -> Finding:
    record = running(settings.home)
    if settings.port == 0 or (record and record.url.endswith(f":{settings.port}")):
        return _ok("port", "a free one is taken" if settings.port == 0 else f"{settings.port}, ours")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", settings.port))
        except OSError as error:
            return _warn("port", f"{settings.port}: {error.strerror}", "skyloom up --port 0 takes a free one.")
    return _ok("port", f"{settings.port} is free")


def _sqlite(_settings: Settings) -> Finding:
    # Before 3.51.3 several connections that checkpoint could damage the log; our only writer is one thread, so we are not affected.
    return _ok("sqlite", f"{sqlite3.sqlite_version}, with one writer")


def _memory_limits(_settings: Settings) -> Finding:
    for folder in _CGROUPS:
        if os.path.isdir(folder) and os.access(folder, os.W_OK):  # noqa: PTH112  (a mount, not a file of ours)
            return _ok("memory limits", f"held by the kernel ({folder})")
    return _warn(
        "memory limits",
        "held by sampling: no control group can be made here",
        "Run as a user that owns one (systemd-run --user --scope), if jobs may grow by gigabytes a second.",
    )


def _gpu(_settings: Settings) -> Finding:
    found = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return _ok("gpu", f"{len(found)} NVIDIA: {', '.join(found)}" if found else "none; training runs on the CPU")


def _torch(_settings: Settings) -> Finding:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return _warn("torch", "not installed: no training here", _INSTALL_TORCH)
    if not version.startswith("2.13."):
        return _warn("torch", f"{version}; Skyloom is made for 2.13", _INSTALL_TORCH)
    return _ok("torch", version)


def _warm_pool(settings: Settings) -> Finding:
    if not settings.warm_pool:
        return _warn("warm pool", "switched off: Python jobs import torch themselves", "Unset SKYLOOM_WARM_POOL.")
    return _ok("warm pool", "on: Python jobs start with their imports done")


def _ok(check: str, found: str) -> Finding:
    return Finding(check=check, grade=Grade.OK, found=found)


def _warn(check: str, found: str, next_action: str) -> Finding:
    return Finding(check=check, grade=Grade.WARN, found=found, next_action=next_action)


def _fail(check: str, found: str, next_action: str) -> Finding:
    return Finding(check=check, grade=Grade.FAIL, found=found, next_action=next_action)


CHECKS: tuple[Callable[[Settings], Finding], ...] = (
    _python,
    _extra("local"),
    _extra("train"),
    _torch,
    _gpu,
    _folder,
    _disk,
    _control_plane,
    _port,
    _sqlite,
    _memory_limits,
    _warm_pool,
)
