"""JupyterLab as a job: ``python -m skyloom.recipes.notebook``.

It listens on loopback only, on any free port, and takes nobody without its token, which is made here and stands in no log and no
argument. Port and token are in the record that Jupyter itself writes below the task's folder, ``jupyter/jpserver-*.json``: whoever may
run commands inside of the task (`skyloom job exec`) can read it, and nobody else.
"""

import argparse
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from skyloom.core.errors import InvalidInput
from skyloom.runtime.failure import fail
from skyloom.settings import TaskEnvironment


class FolderUnusable(InvalidInput):
    """The folder for the notebooks cannot be made."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the server; returns only when that is not possible."""
    parser = argparse.ArgumentParser(description="JupyterLab as a job.")
    parser.add_argument("--idle-s", type=int, default=8 * 3_600, help="end after this long without activity")
    parser.add_argument("--folder", default="", help="folder of the notebooks; the job's shared folder by default")
    asked = parser.parse_args(arguments)
    task = TaskEnvironment.read()
    runtime = Path(task.task_folder or ".") / "jupyter"
    folder = Path(asked.folder or task.shared_folder or ".").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return fail(
            FolderUnusable(
                f"The folder {folder} cannot be made here: {error.strerror}.",
                next_action="Name another with --folder, or leave it out.",
            )
        )
    runtime.mkdir(mode=0o700, exist_ok=True)
    argv = command(folder, asked.idle_s, _free_port())
    # Its token is told by the environment: arguments stand in the process table, where everybody reads them.
    told = {"JUPYTER_TOKEN": secrets.token_urlsafe(32), "JUPYTER_RUNTIME_DIR": str(runtime)}
    return _become(argv, told)


def command(folder: Path, idle_s: int, port: int) -> list[str]:
    """The server's command line: loopback, no browser, no news, and an end when nobody needs it any more."""
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=50",
        f"--ServerApp.root_dir={folder}",
        f"--ServerApp.shutdown_no_activity_timeout={idle_s}",
        f"--MappingKernelManager.cull_idle_timeout={idle_s}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]


def _become(argv: Sequence[str], told: Mapping[str, str]) -> int:
    for name, value in told.items():
        os.putenv(name, value)  # for the program that we become, and nobody else
    sys.stdout.flush()
    try:
        os.execv(argv[0], list(argv))  # noqa: S606 (no shell is what is wanted)
    except OSError as error:
        print(f"{argv[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
