"""Webhooks, with the room's own clock and an outside in memory: at least once, in order, never lost, never in the way."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.core.events import BudgetReached, EventBody, JobEnded, Moved, Noted
from skyloom.core.ids import CountingIds
from skyloom.core.operation import Caller
from skyloom.outbound.memory import MemoryOutbound
from skyloom.ports.clock import MemoryClock
from skyloom.ports.door import Outbox
from skyloom.ports.outbound import AddressRefused
from skyloom.rooms.webhooks import rules
from skyloom.rooms.webhooks.model import (
    MAX_WEBHOOKS,
    CreateWebhook,
    DeleteWebhook,
    ListWebhooks,
    News,
    NewsKind,
    TooManyWebhooks,
    Webhook,
    WebhookMissing,
)
from skyloom.rooms.webhooks.ports import WEBHOOKS
from skyloom.rooms.webhooks.service import Webhooks
from skyloom.sdk.webhooks import is_genuine
from skyloom.stores.memory import MemoryStore

ANN = Caller(principal="ann", project="p", scope="p", rights=frozenset())
BOB = Caller(principal="bob", project="q", scope="q", rights=frozenset())
URL = "https://hook.example/in"
DONE = JobEnded(state="succeeded")


class Post:
    """The room, and what it was told to do."""

    def __init__(self, answers: list[int] | None = None) -> None:
        self.store, self.clock = MemoryStore(), MemoryClock(1_000.0)
        self.outside = MemoryOutbound(answers or [])
        self.outbox = Outbox(self.clock)
        self.room = Webhooks(self.store, self.clock, CountingIds(), self.outside, lambda key: f"secret of {key}")

    def create(self, *kinds: NewsKind, by: Caller = ANN, url: str = URL) -> Webhook:
        ask = CreateWebhook(url=url, kinds=kinds or tuple(NewsKind))
        self.room.check(ask, by)
        return self.store.write(lambda tx: self.room.create(tx, ask, by)).webhook

    def happen(self, subject: str, body: EventBody = DONE, project: str = "p") -> None:
        self.store.write(lambda tx: self.outbox.publish(tx, project, subject, body))

    def run(self, seconds: float = 0.0) -> None:
        """Let the loop work for some time."""
        end = self.clock.now() + seconds
        while True:
            pause_s = self.room.tick()
            if self.clock.now() >= end and pause_s:
                return
            self.clock.advance(min(pause_s, max(0.0, end - self.clock.now())) if seconds else 0.0)

    @property
    def arrived(self) -> list[News]:
        return [msgspec.json.decode(sent.body, type=News) for sent in self.outside.sent]

    @property
    def only(self) -> Webhook:
        (found,) = self.room.list(ListWebhooks(), ANN).items
        return found


@pytest.fixture
def post() -> Post:
    return Post()


def test_news_is_sent_once_signed_and_says_what_happened(post: Post):
    post.happen("job_0")  # before anybody wanted to hear of it
    hook = post.create()
    post.happen("job_1", JobEnded(state="failed", reason="exit_code", message="exited with code 3"))
    post.run()
    post.run()
    ((sent,), (news,)) = post.outside.sent, post.arrived
    assert (sent.url, news.kind, news.subject, news.what) == (URL, NewsKind.JOB_ENDED, "job_1", "failed")
    assert (news.reason, news.message, news.project, news.at) == ("exit_code", "exited with code 3", "p", 1_000.0)
    signature, secret = sent.headers["Skyloom-Signature"], f"secret of {hook.id}"
    assert is_genuine(sent.body, signature, secret, now=1_001.0)
    assert not is_genuine(sent.body + b" ", signature, secret, now=1_001.0)
    assert not is_genuine(sent.body, signature, "another", now=1_001.0)
    assert not is_genuine(sent.body, signature, secret, now=2_000.0)
    assert not is_genuine(sent.body, "nonsense", secret, now=1_001.0)
    assert (post.only.num_sent, post.only.failures) == (1, 0)


def test_name_that_nobody_knows_now_is_taken_and_said_until_news_arrive(post: Post):
    post.outside.unknown = frozenset({URL})
    assert "is not known" in post.create().last_error
    post.outside.unknown = frozenset()
    assert post.create(url="https://other.example/in").last_error == ""
    post.happen("job_1")
    post.run()
    assert [hook.last_error for hook in post.room.list(ListWebhooks(), ANN).items] == ["", ""]


def test_addresses_that_were_doubted_and_never_written_are_forgotten(post: Post):
    urls = [f"https://{number}.example/in" for number in range(1_000)]
    post.outside.unknown = frozenset(urls)
    for url in urls:  # as a request that is repeated: what it did is answered, and nothing is written
        post.room.check(CreateWebhook(url=url, kinds=tuple(NewsKind)), ANN)
    assert len(post.room._doubts) < 500 and (ANN.project, urls[-1]) in post.room._doubts


def test_news_of_other_kinds_and_projects_is_not_sent(post: Post):
    post.create(NewsKind.BUDGET)
    post.happen("job_1")
    post.happen("job_1", Moved(before="queued", after="running"))
    post.happen("alert_1", Moved(before="", after="firing"))
    post.happen("budget_1", BudgetReached(budget="b", threshold=0.8, share=0.81, message="81%"), project="q")
    post.happen("budget_1", BudgetReached(budget="b", threshold=0.8, share=0.81, message="81%"))
    post.happen("job_1", Noted(message="x"))
    post.run()
    assert [(news.kind, news.what, news.reason) for news in post.arrived] == [(NewsKind.BUDGET, "80", "reached")]


def test_news_of_an_alert_is_told_with_its_state(post: Post):
    post.create(NewsKind.ALERT)
    post.happen("alert_1", Moved(before="", after="firing", reason="drift", message="far off"))
    post.run()
    assert [(news.subject, news.what, news.reason) for news in post.arrived] == [("alert_1", "firing", "drift")]


def test_address_that_is_down_gets_everything_later_in_order(post: Post):
    post.create()
    post.outside.answers = [0, 500, 503, 302]
    for number in range(5):
        post.happen(f"job_{number}")
    post.run(1 + 2 + 4 + 8 + 1)
    assert [news.subject for news in post.arrived] == [*["job_0"] * 4, *(f"job_{n}" for n in range(1, 5))]
    assert len({news.id for news in post.arrived}) == 5
    assert (post.only.num_sent, post.only.failures, post.only.last_error) == (5, 0, "")


def test_address_that_is_down_is_asked_less_and_less_often(post: Post):
    post.create()
    post.outside.answers = [0] * 1_000
    post.happen("job_1")
    pauses = []
    for _ in range(15):
        post.room.tick()
        pauses.append(post.only.next_try_at - post.clock.now())
        post.clock.advance(pauses[-1])
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == pauses[-1] == 3_600


def test_address_that_is_down_for_a_day_loses_only_what_is_older(post: Post):
    post.create()
    post.outside.answers = [0] * 40
    post.happen("job_old")
    post.run(rules.KEEP_S - 4_000)
    post.happen("job_new")
    post.run(9_000)
    assert post.only.num_dropped == 1
    post.outside.answers = []
    post.run(4_000)
    assert [news.subject for news in post.arrived] == ["job_new"]


def test_address_that_is_down_keeps_nobody_elses_news_back(post: Post):
    post.outside.refused = frozenset({"https://late.example/"})
    post.create()
    late = CreateWebhook(url="https://late.example/")
    with pytest.raises(AddressRefused):
        post.room.check(late, ANN)
    post.store.write(lambda tx: post.room.create(tx, late, ANN))  # its name led elsewhere when it was made
    post.happen("job_1")
    post.run()
    assert [sent.url for sent in post.outside.sent] == [URL]
    assert {hook.url: hook.failures for hook in post.room.list(ListWebhooks(), ANN).items} == {URL: 0, late.url: 1}


def test_many_news_leave_turns_for_others(post: Post):
    post.create()
    post.create(url="https://other.example/")
    for number in range(30):
        post.happen(f"job_{number}")
    assert post.room.tick() == 0.0
    assert len(post.outside.sent) == 40
    post.run()
    assert len(post.outside.sent) == 60


def test_slow_receiver_leaves_its_turn_to_others_after_some_seconds(post: Post, monkeypatch: pytest.MonkeyPatch):
    post.create(url="https://slow.example/")
    post.create()
    for number in range(10):
        post.happen(f"job_{number}")
    take = post.outside.post

    def slowly(url: str, *request: Any) -> int:
        post.clock.advance(4.0 if "slow" in url else 0.0)
        return take(url, *request)

    monkeypatch.setattr(post.outside, "post", slowly)
    assert post.room.tick() == 0.0
    sent = Counter(sent.url for sent in post.outside.sent)
    assert (sent["https://slow.example/"], sent[URL]) == (2, 10)


def test_webhook_that_is_deleted_while_others_are_sent_to_gets_nothing_more(
    post: Post, monkeypatch: pytest.MonkeyPatch
):
    post.create()
    late = post.create(url="https://late.example/")
    post.happen("job_1")
    take = post.outside.post

    def meanwhile(*request: Any) -> int:
        post.store.write(lambda tx: tx.delete(WEBHOOKS, late.id))
        return take(*request)

    monkeypatch.setattr(post.outside, "post", meanwhile)
    post.room.tick()
    assert [sent.url for sent in post.outside.sent] == [URL]


def test_webhook_of_another_project_is_not_there(post: Post):
    hook = post.create()
    with pytest.raises(WebhookMissing):
        post.store.write(lambda tx: post.room.delete(tx, DeleteWebhook(webhook_id=hook.id), BOB))
    assert post.room.list(ListWebhooks(), BOB).items == ()
    post.store.write(lambda tx: post.room.delete(tx, DeleteWebhook(webhook_id=hook.id), ANN))
    post.happen("job_1")
    post.run()
    assert post.outside.sent == []


def test_webhooks_of_a_project_are_bounded(post: Post):
    for number in range(MAX_WEBHOOKS):
        post.create(url=f"https://hook.example/{number}")
    with pytest.raises(TooManyWebhooks):
        post.create()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([200, 0, 500])), max_size=25), st.data())
def test_news_arrives_at_least_once_and_in_order_whatever_fails(what: list[tuple[int, int]], data: st.DataObject):
    """Crashes come between the request and the note of it: a store that loses the note has the same done again."""
    post = Post([answer for _, answer in what])
    post.create()
    for number, (job, _) in enumerate(what):
        post.happen(f"job_{job}", JobEnded(state=str(number)))
    for _ in range(200):
        before = post.only
        post.room.tick()
        if data.draw(st.integers(0, 9)) == 0:
            after = post.only
            lost = msgspec.structs.replace(before, version=after.version)
            post.store.write(lambda tx, lost=lost: tx.update(WEBHOOKS, lost))
        post.clock.advance(max(1.0, post.only.next_try_at - post.clock.now()))
        if post.only.num_sent >= len(what):
            break
    post.run(10_000)
    first: dict[str, News] = {}
    for sent in post.outside.sent:
        news = msgspec.json.decode(sent.body, type=News)
        first.setdefault(news.id, news)
    assert [news.what for news in first.values()] == [str(number) for number in range(len(what))]


def test_webhook_that_breaks_the_sender_holds_up_no_other_one() -> None:
    class Broken(MemoryOutbound):
        def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
            if "broken" in url:
                raise ValueError("not foreseen")
            return super().post(url, body, headers, timeout_s)

    post = Post()
    post.outside = Broken([])
    post.room = Webhooks(post.store, post.clock, CountingIds(), post.outside, lambda key: f"secret of {key}")
    first, second = post.create(url="https://broken.example/in"), post.create(by=BOB)
    for project in ("p", "q"):
        post.happen("job_1", project=project)
    post.room.tick()
    kept = post.store.read(lambda view: {hook.id: hook for hook in view.select(WEBHOOKS)})
    assert (kept[first.id].failures, kept[second.id].num_sent) == (1, 1)
    assert "not foreseen" not in kept[first.id].last_error
