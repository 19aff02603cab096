"""Jobs from Python: submit, wait, follow, cancel; and calls of single functions."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.core.operation import Page
from skyloom.ports.channel import Size
from skyloom.ports.engine import PythonCall
from skyloom.rooms.arrays.model import ArrayStatus
from skyloom.rooms.jobs import model
from skyloom.rooms.jobs.model import ENDED, JobSpec, JobState, JobStatus, Session
from skyloom.sdk.environment import spec_fields
from skyloom.sdk.files import upload_all
from skyloom.sdk.patience import patient_with_job
from skyloom.sdk.specs import job_spec
from skyloom.sdk.transport import Transport
from skyloom.sdk.waiting import pauses, say, wait_until

_SOON_S, _OFTEN_S = 2.0, 10.0


class JobFailed(SkyloomError):
    """A job that was waited for ended without success. ``status`` says why."""

    status: JobStatus | None = None


class JobNews:
    """Tells what a job or an array waits for: after a moment, then when that is another thing, and not too often."""

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self._tell = tell
        self._said = ("", "")
        self._due = time.monotonic() + _SOON_S

    @property
    def is_due(self) -> bool:
        """What waits now would be told of."""
        return self._tell is not None and time.monotonic() > self._due

    def of(self, status: JobStatus) -> JobStatus:
        """Look at the job; gives it back."""
        if status.state is JobState.QUEUED:
            # When it will start is reckoned anew at every look, and is no news.
            self._wait(f"job {status.job.id}", waits_for(status), status.next_action, told=status.message)
        return status

    def of_array(self, status: ArrayStatus) -> ArrayStatus:
        """Look at the array, of which nothing may run yet; gives it back."""
        if not status.num_running and status.state not in ENDED:
            message = status.message or "for room"
            self._wait(f"array {status.array.id}", message, status.next_action, told=message)
        elif self.is_due:
            self._due = time.monotonic() + _SOON_S  # it does well: no need to look at every turn
        return status

    def _wait(self, subject: str, why: str, next_action: str, *, told: str) -> None:
        if self._tell is not None and (subject, told) != self._said and self.is_due:
            self._tell(f"{subject} waits: {why}. {next_action}" if next_action else f"{subject} waits: {why}")
            self._said, self._due = (subject, told), time.monotonic() + _OFTEN_S


def waits_for(status: JobStatus) -> str:
    """What a queued job waits for and when it will start, in a line."""
    return "; ".join(words for words in (status.message or "for its turn", status.outlook) if words)


class JobCalls:
    """``cloud.jobs``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(self, spec: JobSpec, *, key: str | None = None) -> JobStatus:
        """Queue a job. It is on disk when this returns. With a ``key`` of yours, submitting again gives the same job."""
        return self._transport.send(model.SubmitJob(spec=spec), key)

    def run(self, command: Sequence[str] | None = None, *, key: str | None = None, **options: Any) -> JobStatus:
        """Queue a command, or a Python file with the files it needs.

        Args:
            command: program and arguments, as they are: no shell.
            key: of yours; the same request with the same key gives the same job.
            options: ``script``, a Python file here, which is uploaded and run with ``args``; ``include``, more files to upload, as
                path in the job → path here; ``cpus``, ``gpus``, ``memory`` of each worker; ``after``, ids of jobs and arrays that have
                to succeed first; and fields of `JobSpec`: ``num_workers`` (``(1, 8)`` for an elastic gang), ``max_retries``,
                ``max_duration_s``, ``priority``, …;
                and ``requirements``: a file here or a list of packages, for an environment of the job's own (``isolated`` from the pool's).
        """
        return self.submit(job_spec(self._transport, command, **options), key=key)

    def get(self, job_id: str) -> JobStatus:
        """Show one job."""
        return self._transport.send(model.GetJob(job_id=job_id))

    def list(self, limit: int = 50, cursor: str | None = None, live: bool = False, array: str = "") -> Page[JobStatus]:
        """List jobs, newest first, of one array or of none; only those that have not ended with ``live``."""
        return self._transport.send(model.ListJobs(limit=limit, cursor=cursor, live=live, array=array))

    def cancel(self, job_id: str) -> JobStatus:
        """Ask a job to stop. Safe to repeat."""
        return self._transport.send(model.CancelJob(job_id=job_id))

    def rerun(self, job_id: str) -> JobStatus:
        """Queue a new job that does what an earlier one did."""
        return self._transport.send(model.RerunJob(job_id=job_id))

    def logs(
        self, job_id: str, *, rank: int = 0, attempt: int = 0, offset: int = 0, limit: int = 2**18
    ) -> model.LogChunk:
        """Read some output of one worker."""
        return self._transport.send(
            model.ReadLog(job_id=job_id, rank=rank, attempt=attempt, offset=offset, limit=limit)
        )

    def result(self, job_id: str) -> model.CallResult:
        """What a called function returned, if it has."""
        return self._transport.send(model.ReadResult(job_id=job_id))

    def exec(
        self,
        job_id: str,
        command: Sequence[str],
        *,
        rank: int = 0,
        terminal: Size | None = None,
        kind_of_terminal: str = "xterm",
    ) -> Session:
        """Allow one command inside of a running worker. `skyloom.sdk.tunnel.run_inside` also runs it."""
        ask = model.OpenExec(
            job_id=job_id, argv=tuple(command), rank=rank, terminal=terminal, kind_of_terminal=kind_of_terminal
        )
        return self._transport.send(ask)

    def forward(self, job_id: str, port: int, *, rank: int = 0) -> Session:
        """Allow connections to a port of a running worker. `skyloom.sdk.tunnel.Forward` also listens here and connects."""
        return self._transport.send(model.OpenPort(job_id=job_id, port=port, rank=rank))

    def follow(self, job_id: str, *, rank: int = 0, attempt: int = 0, offset: int = 0) -> Iterator[str]:
        """Yield output as it comes, until the job ends. No byte is lost or repeated, across restarts of the control plane too.

        While the cloud cannot be reached it says so on stderr and tries again for a minute; then it raises `CloudUnreachable`.

        With attempt 0 every attempt is followed, one after the other, ``offset`` being one of the first.
        """
        calls = JobCalls(patient_with_job(self._transport, job_id))
        if attempt:
            yield from calls._follow(job_id, rank, attempt, offset)
            return
        current = 1
        while current <= calls.get(job_id).job.attempt:
            yield from calls._follow(job_id, rank, current, offset)
            current, offset = current + 1, 0

    def _follow(self, job_id: str, rank: int, attempt: int, offset: int) -> Iterator[str]:
        waiting = pauses()
        while True:
            chunk = self.logs(job_id, rank=rank, attempt=attempt, offset=offset)
            if chunk.text:
                yield chunk.text
                waiting = pauses()
            if chunk.ended:
                return
            if chunk.next_offset == offset:
                next(waiting)
            offset = chunk.next_offset

    def wait(
        self, job_id: str, *, timeout_s: float | None = None, tell: Callable[[str], None] | None = None
    ) -> JobStatus:
        """Wait until a job has ended, and return how; through an outage of the cloud as `follow` does. Raises ``TimeoutError``.

        Args:
            tell: is told, in a line, what a job waits for that does not start soon, and again when that changes.
        """
        news, calls = JobNews(tell), JobCalls(patient_with_job(self._transport, job_id, timeout_s))
        return wait_until(
            lambda status: status.state in ENDED,
            lambda: news.of(calls.get(job_id)),
            timeout_s,
            lambda status: f"job {job_id} is still {status.state.value}",
        )

    def finish(
        self, job_id: str, *, timeout_s: float | None = None, tell: Callable[[str], None] | None = say
    ) -> JobStatus:
        """Wait until a job has succeeded. Raises `JobFailed` when it ended in another way, ``TimeoutError``.

        Args:
            tell: as in `wait`; a job that waits says so on stderr, by default.
        """
        status = self.wait(job_id, timeout_s=timeout_s, tell=tell)
        if status.state is not JobState.SUCCEEDED:
            error = JobFailed(
                f"Job {job_id} {status.state.value}: {status.message}.",
                next_action=status.next_action or f"See: skyloom why {job_id}.",
            )
            error.status = status
            raise error
        return status

    def call(
        self,
        path: Path,
        function: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        key: str | None = None,
        **options: Any,
    ) -> JobStatus:
        """Queue one call of a function of a Python file, with JSON arguments."""
        arguments = msgspec.json.encode({"args": list(args), "kwargs": dict(kwargs)})
        entry = PythonCall(path=path.name, function=function, arguments=arguments)
        files = upload_all(self._transport, {path.name: path})
        return self.submit(JobSpec(entry=entry, files=files, **spec_fields(options)), key=key)
