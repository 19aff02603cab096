"""One call of an endpoint between a slow client, a service and the list of tokens."""

import time
from types import SimpleNamespace

import msgspec
import pytest

from skyloom.inference.access import AccessList
from skyloom.inference.services.calls import CallOutcome, PendingCall
from skyloom.inference.services.openai import Address, ReadRequest
from skyloom.inference.wire.messages import Head, Response
from skyloom.inference.wire.openai_site import OpenAiWording
from skyloom.inference.wire.service_call import EndpointCall, PlainWording, Wording
from skyloom.inference.wire.shown_tokens import ShownTokens
from skyloom.rooms.registry.services import Answering, ServiceMethod
from tests.inference.serving import TOKEN, write_access

MANY = ServiceMethod(name="many", answering=Answering.PARTS)


class Slow:
    """A client that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.on_cut = self.on_room = None
        self.answered: Response | None = None
        self.pushed: list[bytes] = []
        self.num_unsent = 0
        self.is_finished = False

    def answer(self, response: Response) -> None:
        self.answered = response

    def begin(self, response: object) -> None: ...

    def push(self, part: bytes) -> None:
        self.pushed.append(part)
        self.num_unsent += len(part)

    def finish(self) -> None:
        self.is_finished = True

    def room(self) -> None:
        self.num_unsent = 0
        self.on_room()


class Untaken:
    """A service's process, as far as parts are taken from it."""

    num_taken = num_given_up = 0

    def ask(self, call: PendingCall) -> None: ...

    def took(self, call: PendingCall, num_parts: int) -> None:
        self.num_taken += num_parts

    def give_up(self, call: PendingCall) -> None:
        self.num_given_up += 1


class Call:
    """A call in parts that was begun, and what stands around it."""

    def __init__(self, folder, wording: Wording | None = None, **more) -> None:
        self.file = folder / "access.json"
        write_access(self.file, TOKEN)
        self.access = AccessList(self.file)
        self.streams = ShownTokens(self.access)
        self.statuses: list[int] = []
        plane = SimpleNamespace(
            check_open=lambda: None,
            record=lambda _: "p",
            traffic=SimpleNamespace(answered=lambda status, _: self.statuses.append(status)),
        )
        self.process, self.client = Untaken(), Slow()
        head = Head(b"POST", b"/many", {b"authorization": b"Bearer " + TOKEN.encode()})
        request = SimpleNamespace(arrived_at=time.perf_counter(), head=head)
        self.call = EndpointCall(
            plane, self.process, request, self.client, MANY, wording or PlainWording(), self.streams, body=b"", **more
        )

    def revoke(self) -> None:
        write_access(self.file, "another")
        self.access.refresh()


@pytest.fixture
def begun(tmp_path) -> Call:
    made = Call(tmp_path)
    made.call.begin()
    return made


def test_slow_client_slows_large_parts_down_instead_of_being_cut(begun) -> None:
    client = begun.client
    for number in range(32):
        begun.call._part(CallOutcome(memoryview(b"%d" % (number % 10) * 2**20)))
    assert len(client.pushed) == 1 and begun.process.num_taken == 1
    begun.call._ended(CallOutcome(memoryview(b"")))
    while not client.is_finished:
        client.room()
        assert client.num_unsent < 2**21
    assert len(client.pushed) == 33 and client.pushed[-1].startswith(b"event: done")
    assert len(begun.streams) == 0


def test_stream_ends_with_its_token_in_words_and_the_service_may_stop(begun) -> None:
    for _ in range(3):
        begun.call._part(CallOutcome(memoryview(b"1" * 2**20)))
    begun.streams.look()
    assert not begun.client.is_finished
    begun.revoke()
    begun.streams.look()
    assert begun.client.is_finished and begun.process.num_given_up == 1 and len(begun.streams) == 0
    assert len(begun.client.pushed) == 2, "what it had not taken yet is not for it"
    assert begun.client.pushed[-1].startswith(b"event: error") and b"revoked or has expired" in begun.client.pushed[-1]
    assert begun.statuses == [401], "a revoked token is no failure of the revision"


def test_stream_whose_service_is_done_gives_the_rest_to_nobody_when_the_token_ends(begun) -> None:
    for _ in range(3):
        begun.call._part(CallOutcome(memoryview(b"1" * 2**20)))
    begun.call._ended(CallOutcome(memoryview(b"")))
    begun.revoke()
    begun.streams.look()
    assert begun.client.is_finished and begun.client.pushed[-1].startswith(b"event: error")
    assert begun.statuses == [200]


def test_stream_that_has_no_part_yet_is_answered_401_when_its_token_ends(begun) -> None:
    begun.revoke()
    begun.streams.look()
    assert begun.client.answered.status == 401 and begun.process.num_given_up == 1


def test_token_that_ended_while_the_body_came_opens_no_stream(tmp_path) -> None:
    late = Call(tmp_path)
    late.revoke()
    late.call.begin()
    assert late.client.answered.status == 401 and len(late.streams) == 0


def test_openai_stream_ends_with_the_apis_own_error(tmp_path) -> None:
    wording = OpenAiWording(Address.CHAT, {"id": "gen-1", "created": 0, "model": "toy"}, ReadRequest(b"", True))
    made = Call(tmp_path, wording)
    made.call.begin()
    made.call._part(CallOutcome(memoryview(b'"one"')))
    made.revoke()
    made.streams.look()
    last = msgspec.json.decode(made.client.pushed[-1].removeprefix(b"data: "))
    assert made.client.is_finished and "revoked or has expired" in last["error"]["message"]


def test_part_that_cannot_be_worded_ends_its_own_call_in_words(tmp_path) -> None:
    wording = OpenAiWording(Address.COMPLETIONS, {"id": "gen-1", "created": 0, "model": "toy"}, ReadRequest(b"", True))
    made = Call(tmp_path, wording)
    made.call.begin()
    made.call._part(CallOutcome(memoryview(b'{"text": "a", "logprobs": [{"chance": 1}]}')))
    assert made.client.is_finished or made.client.answered.status == 500
    assert made.process.num_given_up == 1 and made.statuses == [500] and len(made.streams) == 0


def test_stream_that_is_over_or_left_is_forgotten(begun) -> None:
    begun.call._part(CallOutcome(memoryview(b"1")))
    begun.client.on_cut()
    assert len(begun.streams) == 0
