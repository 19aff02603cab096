"""What cannot be meant is told by its option, and never reaches the control plane."""

import math

import pytest

from skyloom.cli.checking import CheckedTransport
from skyloom.cli.values import UnreadableOption
from skyloom.core.operation import Operation
from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import GetJob, JobSpec, SubmitJob
from skyloom.rooms.scheduling.rulebook import SetQuota, SetScheduling
from skyloom.rooms.secrets.model import SetSecret
from skyloom.rooms.webhooks.model import CreateWebhook, NewsKind
from skyloom.sdk.client import Client
from tests.terminal import Terminal


class Recorder:
    """A transport that keeps what is sent."""

    project, url, token = "p", "", ""
    patience_s = 5.0

    def __init__(self) -> None:
        self.sent: list[Operation[object]] = []

    def send(self, ask: Operation[object], key: str | None = None) -> None:
        self.sent.append(ask)


def job(**spec: object) -> SubmitJob:
    return SubmitJob(spec=JobSpec(entry=Command(argv=("true",)), **spec))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (SetSecret(name="empty", value=""), "The value is empty."),
        (CreateWebhook(url="notaurl", kinds=(NewsKind.ALERT,)), "The URL has to be an http:// or https:// address."),
        (SetQuota(name="p", weight=math.nan), "--weight has to be more than 0."),
        (SetQuota(name="p", weight=1e9), "--weight has to be 1,000,000 or less."),
        (SetScheduling(las_limits_gpu_s=(math.nan,)), "--las-limits has to be"),
        (job(expected_duration_s=0.0), "--expected has to be more than 0 s."),
        (job(max_duration_s=0.0), "--max-duration has to be more than 0 s."),
        (job(grace_s=1e6), "--grace has to be 1 h 00 min or less."),
        (job(priority=9_999), "--priority has to be 1,000 or less."),
        (job(name="x" * 500), "The name has to be 400 or less long."),
    ],
)
def test_value_out_of_bounds_is_told_by_its_option_and_not_sent(ask: Operation[object], said: str) -> None:
    inner = Recorder()
    with pytest.raises(UnreadableOption) as refused:
        CheckedTransport(inner).send(ask)  # type: ignore[arg-type]
    assert refused.value.message.startswith(said) and not inner.sent


def test_what_is_within_its_bounds_or_only_looks_is_sent_as_it_is() -> None:
    inner, asks = Recorder(), [job(environment={"A": "1"}, labels={"a": "b"}), GetJob(job_id="no id")]
    for ask in asks:
        CheckedTransport(inner).send(ask)  # type: ignore[arg-type]
    assert inner.sent == asks


def test_commands_speak_through_the_check(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Client, "__exit__", lambda self, *_: seen.append(self.transport) or self.close())
    said = terminal("project", "quota", "default", "--weight", "nan")
    assert (said.code, said.err.splitlines()[0]) == (2, "error unreadable_option: --weight has to be more than 0.")
    assert isinstance(seen[0], CheckedTransport)


def test_word_that_is_no_choice_is_told_without_whose_check_it_was(terminal: Terminal) -> None:
    said = terminal("scheduler", "set", "--policy", "nope")
    assert said.code == 2 and "Invalid value for '--policy': 'nope' is not one of 'fifo'" in said.err
