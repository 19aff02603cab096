"""A replica that cannot log says so; behind a gateway nobody would ask it again, so it finds out by itself when it can."""

import asyncio
import errno
from types import SimpleNamespace

from skyloom.inference import journal as journals
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.journal import Journal, LogFile
from skyloom.inference.report import Reporter
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.serving.plan import Limits
from skyloom.settings import TaskEnvironment
from tests.inference.serving import TOY_SIGNATURE
from tests.inference.test_journal import ticket


def test_replica_whose_disk_was_full_is_ready_again_without_a_request(tmp_path, monkeypatch):
    journal = Journal(LogFile(tmp_path, "rep_a"), "rev_1", TOY_SIGNATURE)
    plan = SimpleNamespace(endpoint="ep", replica="rep_a", revision="rev_1", limits=Limits())
    traffic = SimpleNamespace(snapshot=Traffic)
    plane = DataPlane(plan, None, None, journal, traffic, None)  # type: ignore[arg-type]
    nobody = TaskEnvironment.read({"SKYLOOM_JOB_ID": "job_1", "SKYLOOM_URL": "http://127.0.0.1:1"})
    reporter = Reporter(plane, nobody, (1, 2), lambda: None)

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journals.os, "write", full)
        journal.write([ticket(1)])
        asyncio.run(reporter.send())
        assert not plane.ready
    asyncio.run(reporter.send())
    assert plane.ready
    reporter.close()
    journal.close()
