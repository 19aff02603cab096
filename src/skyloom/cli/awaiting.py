"""Waiting for a deployment: what keeps it is said once, and why it fails with the end of the log."""

import typer

from skyloom.cli.wording import safe, safe_output
from skyloom.core.errors import SkyloomError
from skyloom.rooms.serving.model import EndpointStatus, ReplicaStatus
from skyloom.sdk.client import Client
from skyloom.sdk.serving import EndpointFailed

_LINES = 12  # of a log


class KeptBy:
    """Says on stderr what keeps an endpoint: each thing once, however often it is looked at; a first failure with where its log is.

    Args:
        log: the command that shows what its processes print; "" for that of the job that failed.
    """

    def __init__(self, log: str = "") -> None:
        self._log = log
        self._said: set[str] = set()
        self.failed: ReplicaStatus | None = None  # the newest one

    def __call__(self, seen: EndpointStatus) -> None:
        failures = [one for one in seen.replicas if _failed(one, seen.endpoint.revision)]
        self.failed = max(failures, key=lambda one: one.replica.created_at, default=self.failed)
        if self.failed is not None:
            self._say(f"A replica failed; it is tried again. Its log: {self.log_command}.", "failed")
        elif seen.message:
            self._say(safe(seen.message), seen.message)

    @property
    def log_command(self) -> str:
        """What shows the whole log of the newest failure."""
        return self._log or (f"skyloom job logs {self.failed.replica.job_id}" if self.failed else "")

    def _say(self, line: str, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            typer.echo(line, err=True)


def awaited(client: Client, endpoint: str, timeout_s: float, log: str = "") -> EndpointStatus:
    """An endpoint once it answers. Raises `EndpointFailed` after the last lines of the log of what failed; ``TimeoutError``."""
    kept = KeptBy(log)
    try:
        return client.endpoints.wait(endpoint, timeout_s=timeout_s, watch=kept)
    except EndpointFailed as error:
        if kept.failed is None:
            raise
        message = error.message.partition(" | ")[0]  # the last lines follow it there, in one line
        for line in _tail(client, kept.failed.replica.job_id, message):
            typer.echo(f"  {line}", err=True)
        action = f"Read all of it: {log}. Mend that, then deploy again." if log else error.next_action
        raise EndpointFailed(message, next_action=action) from error


def _failed(one: ReplicaStatus, revision: int) -> bool:
    return one.replica.failed and one.replica.revision_number == revision


def _tail(client: Client, job_id: str, told: str) -> list[str]:
    """The last lines of a job's output, without those that are told anyway."""
    text, offset = "", 0
    try:
        while (chunk := client.jobs.logs(job_id, offset=offset)).next_offset > offset:
            text, offset = (text + chunk.text)[-(2**16) :], chunk.next_offset
    except SkyloomError:
        return []
    lines = (line.rstrip() for line in safe_output(text).splitlines())
    return [line for line in lines if line and line not in told][-_LINES:]
