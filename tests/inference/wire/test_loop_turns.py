"""Turns of the connections that share a loop: who is read slowly, who is sent away, who is not read any more."""

import socket

import pytest

from skyloom.inference.wire import loop_turns
from skyloom.inference.wire.loop_turns import LoopTurns, is_left


class Clock:
    """A loop that calls when it is told to."""

    def __init__(self) -> None:
        self.due = []

    def call_soon(self, call, *given):
        self.due.append((call, given))

    def call_later(self, _delay_s, call, *given):
        self.due.append((call, given))

    def turn(self):
        due, self.due = self.due, []
        for call, given in due:
            call(*given)


class Reader:
    """A connection that has as many turns to take as it is told."""

    def __init__(self, turns, clock, harm=0, num_turns=1):
        self.turns, self.clock, self.harm, self.num_turns = turns, clock, harm, num_turns
        self.has_left = self.is_away = self.is_cut = False

    def read_on(self):
        self.num_turns -= 1
        if self.num_turns:
            self.turns.read_later(self, self.clock, slowly=True)

    def flush(self): ...

    def give_up(self):
        self.is_cut = True

    def send_away(self):
        self.is_away = True


def test_slow_line_that_is_full_sends_the_worst_away():
    turns, clock = LoopTurns(), Clock()
    readers = [Reader(turns, clock, harm) for harm in (20, 90, 30, 17, 16, 18)]
    for each in readers:
        turns.read_later(each, clock, slowly=True)
    assert [each.harm for each in readers if each.is_away] == [90, 30]
    assert len(clock.due) == 1, "one turn, however many wait"
    for _ in range(4):
        clock.turn()
    assert sum(each.num_turns for each in readers if not each.is_away) == 0 and not clock.due


def test_slow_clients_that_have_left_take_no_turns():
    turns, clock = LoopTurns(), Clock()
    readers = [Reader(turns, clock, num_turns=50) for _ in range(4)]
    for each in readers:
        turns.read_later(each, clock, slowly=True)
    for each in readers[:3]:
        each.has_left = True
    clock.turn()
    assert [each.is_cut for each in readers] == [True, True, True, False]
    assert [each.num_turns for each in readers] == [50, 50, 50, 49]
    readers[3].has_left = True
    clock.turn()
    assert not clock.due, "when all have left, nobody wakes up any more"


class Wire:
    """A transport that knows its socket."""

    def __init__(self, link):
        self.link = link

    def is_closing(self):
        return False

    def get_extra_info(self, name):
        return self.link if name == "socket" else None


@pytest.mark.skipif(not loop_turns._GONE, reason="only Linux tells")
def test_client_that_closed_behind_what_was_not_read_is_seen():
    with socket.create_server(("127.0.0.1", 0)) as door:
        client = socket.create_connection(door.getsockname())
        server, _ = door.accept()
        with server:
            client.sendall(b"unread")
            server.recv(6, socket.MSG_PEEK)
            assert not is_left(Wire(server))
            client.close()
            while not is_left(Wire(server)):  # the end is on its way
                pass
            assert server.recv(6) == b"unread"


def test_transport_without_a_socket_has_not_left():
    assert not is_left(Wire(None))
