"""K01: a canary in every secret, and a search of everything that a cloud leaves behind."""

import base64
import secrets as randoms
from collections.abc import Iterator
from pathlib import Path

import msgspec

from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import JobSpec, JobState
from skyloom.rooms.secrets.model import SecretUse
from tests.control_plane import ControlPlane

USE = 'test "$CANARY" = "$(cat $SKYLOOM_SECRET_DB_PASSWORD_FILE)" && test -n "$CANARY" && sleep 0.3'


def disguises(value: str) -> tuple[bytes, ...]:
    """A value as it would show up in files, arguments and answers."""
    plain = value.encode()
    return plain, base64.b64encode(plain)[:20], plain.hex().encode()


def argument_lists() -> Iterator[bytes]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                yield (process / "cmdline").read_bytes()
            except OSError:
                continue


def test_secret_shows_nowhere_but_in_the_process_that_asked_for_it(control_plane: ControlPlane) -> None:
    canaries = [f"canary{randoms.token_hex(12)}" for _ in range(2)]
    with control_plane.client() as cloud:
        cloud.secrets.set("db-password", canaries[0])
        uses = (SecretUse(name="db-password"), SecretUse(name="db-password", variable="CANARY"))
        spec = JobSpec(entry=Command(argv=("/bin/sh", "-c", USE)), secrets=uses)
        job_id = cloud.jobs.submit(spec).job.id
        cloud.secrets.set("db-password", canaries[1])
        seen = b"".join(argument_lists())
        assert cloud.jobs.wait(job_id, timeout_s=30).state is JobState.SUCCEEDED
        again = cloud.jobs.finish(cloud.jobs.rerun(job_id).job.id, timeout_s=30)
        answers = [again, cloud.jobs.list(), cloud.secrets.list(), cloud.audit.list(), cloud.overview.why(job_id)]
        seen += b"".join(map(msgspec.json.encode, answers))
        assert cloud.secrets.list().items[0].number == 2
    home = control_plane.home
    files = [path for path in home.rglob("*") if path.is_file()] + [control_plane.log]
    for value in canaries:
        for disguise in disguises(value):
            assert disguise not in seen
            assert [path for path in files if disguise in path.read_bytes()] == []
    assert (home / "master").stat().st_mode & 0o077 == 0
    master = (home / "master").read_bytes()
    assert [path.name for path in files if master in path.read_bytes()] == ["master"]
