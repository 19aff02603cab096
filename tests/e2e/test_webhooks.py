"""Webhooks of a real control plane: signed, in order, at least once across its death, and in nobody's way while the receiver hangs."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.ports.outbound import AddressRefused
from skyloom.rooms.jobs.model import JobSpec, JobState
from skyloom.rooms.webhooks.model import News, NewsKind
from skyloom.sdk.client import Client
from skyloom.sdk.webhooks import is_genuine
from tests.control_plane import ControlPlane


class Sink:
    """A receiver that can be told to fail or to hang."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, str]] = []
        self.status = 200
        self.hanging, self.asked = threading.Event(), threading.Event()
        self.hanging.set()  # set: it answers
        sink = self

        class Kept(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink.asked.set()
                sink.hanging.wait(30)
                if sink.status == 200:
                    sink.got.append((body, self.headers["Skyloom-Signature"]))
                try:
                    self.send_response(sink.status)
                    self.end_headers()
                except OSError:
                    pass  # who asked has given up

            def log_message(self, *words: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Kept)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    @property
    def news(self) -> list[News]:
        return [msgspec.json.decode(body, type=News) for body, _ in self.got]

    def close(self) -> None:
        self.hanging.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.close()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path / "home", forked=True, SKYLOOM_WEBHOOK_HOSTS="127.0.0.1").start().ready()
    yield plane
    plane.end_everything()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(cloud: Client, shell: str) -> str:
    spec = JobSpec(entry=Command(argv=("/bin/sh", "-c", shell)), resources=Resources(cpus=0.1, memory_bytes=2**24))
    job_id = cloud.jobs.submit(spec).job.id
    assert cloud.jobs.wait(job_id, timeout_s=30).state in (JobState.SUCCEEDED, JobState.FAILED)
    return job_id


def test_news_of_jobs_arrives_signed_and_across_the_death_of_the_control_plane(plane: ControlPlane, sink: Sink) -> None:
    with plane.client() as cloud:
        made = cloud.webhooks.create(sink.url)
        assert cloud.audit.list(1).items[0].subject == made.webhook.id
        first = run(cloud, "exit 3")
        wait_for(lambda: len(sink.got) == 1)
        sink.status = 500
        second = run(cloud, "true")
        wait_for(lambda: cloud.webhooks.list().items[0].failures > 0)
        assert cloud.webhooks.list().items[0].last_error == "It answered 500."
    plane.kill()
    sink.status = 200
    plane.start().ready()
    with plane.client() as cloud:
        third = run(cloud, "true")
        wait_for(lambda: len(sink.got) == 3)
        told = [(news.subject, news.what, news.kind) for news in sink.news]
        assert told == [
            (first, "failed", NewsKind.JOB_ENDED),
            (second, "succeeded", NewsKind.JOB_ENDED),
            (third, "succeeded", NewsKind.JOB_ENDED),
        ]
        assert all(is_genuine(body, signature, made.secret) for body, signature in sink.got)
        assert made.secret not in str(cloud.webhooks.list())
        cloud.webhooks.delete(made.webhook.id)
        assert cloud.audit.list(1).items[0].subject == made.webhook.id


def test_receiver_that_hangs_is_in_nobodys_way(plane: ControlPlane, sink: Sink) -> None:
    with plane.client() as cloud:
        sink.hanging.clear()
        cloud.webhooks.create(sink.url)
        run(cloud, "true")
        wait_for(sink.asked.is_set)
        for _ in range(3):
            run(cloud, "true")  # jobs go on while the request waits for its answer
        cloud.overview.status()
        sink.hanging.set()
        wait_for(lambda: len({news.id for news in sink.news}) == 4)
        assert list(dict.fromkeys(news.at for news in sink.news)) == sorted({news.at for news in sink.news})


def test_address_of_the_inside_is_refused_in_words(control_plane: ControlPlane, sink: Sink) -> None:
    by_name = f"http://localhost:{sink.server.server_port}/"
    with control_plane.client() as cloud:
        for url in (sink.url, by_name, "http://169.254.169.254/latest/meta-data/", "http://[::ffff:10.0.0.1]/"):
            with pytest.raises(AddressRefused, match="public internet"):
                cloud.webhooks.create(url)
        assert cloud.webhooks.list().items == ()
