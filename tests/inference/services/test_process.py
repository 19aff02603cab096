"""A service in its process: answers, refusals, parts, batches, deaths."""

import asyncio
import os
import signal

import numpy as np
import pytest

from skyloom.inference.services import process as processes
from skyloom.inference.services.calls import (
    ArgumentsRefused,
    ServiceFailed,
    ServiceFull,
    ServiceGone,
    ServiceLate,
    ServiceRestarting,
    ServiceUnfit,
)
from skyloom.inference.services.frames import LENT_BYTES
from tests.inference.services.workplace import TOYS, working, write_service


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    with working(folder, write_service(folder)) as asking:
        yield asking


def test_plain_method_answers_and_has_its_defaults(toys) -> None:
    assert toys.call("greet", name="Ada") == "hello Ada"
    assert toys.call("greet", name="Ada", loud=True) == "HELLO Ada"
    assert toys.call("judge", review={"text": "fine!!"}) == {"score": 2.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "missing required field `name`"),
        ({"name": 3}, "$.name"),
        ({"name": "x", "who": 1}, "unknown field `who`"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(toys, arguments, words) -> None:
    refusal = toys.call("greet", **arguments)
    assert isinstance(refusal, ArgumentsRefused)
    assert words in refusal.message


def test_raised_values_are_the_callers_and_other_errors_the_services(toys) -> None:
    assert toys.call("fail", how="value").message == "two is not allowed"
    assert isinstance(toys.call("fail", how="bad"), ArgumentsRefused)
    failure = toys.call("fail", how="oil")
    assert isinstance(failure, ServiceFailed)
    assert failure.message == "fail failed: RuntimeError: it broke: oil."
    assert "no form in JSON" in toys.call("odd", what=1).message


def test_parts_come_in_order_from_threads_and_from_the_loop(toys) -> None:
    assert toys.call("count", to=500) == list(range(500))
    assert toys.call("tell", words=["a", "b"]) == ["a", "b"]
    parts, failure = toys.call("count", to=10, fail_at=3)
    assert parts == [0, 1, 2] and "half way" in failure.message


def test_async_methods_run_at_the_same_time(toys) -> None:
    async def meet() -> list[int]:
        return await asyncio.gather(*(toys.ask("meet", number=20) for _ in range(20)))

    assert toys.run(meet()) == [20] * 20


def test_batches_travel_together_and_one_bad_request_fails_alone(toys) -> None:
    async def many() -> list:
        return await asyncio.gather(*(toys.ask("double", value=value) for value in range(20)))

    answers = toys.run(many())
    assert [answer for value, answer in enumerate(answers) if value != 13] == [2 * v for v in range(20) if v != 13]
    assert "thirteen" in answers[13].message
    assert max(toys.call("batches")) == 8


@pytest.mark.parametrize("size", [0, 1, LENT_BYTES, LENT_BYTES + 1, 5_000_000])
def test_bytes_of_all_sizes_come_back_as_they_went(toys, size) -> None:
    content = os.urandom(size)
    assert toys.call("echo", body=content) == content
    assert not toys.process._line.lent


def test_arrays_go_as_memory_and_as_json(toys) -> None:
    assert toys.call("total", rows=[[1, 2], [3, 4.5]]) == 10.5
    for count in (1, 50_000):
        rows = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
        ((name, dtype, shape, content),) = toys.call(
            "scale", arrays=[("rows", "<f4", rows.shape, memoryview(rows).cast("B"))]
        )
        assert (name, shape) == ("output", rows.shape)
        assert (np.frombuffer(content, dtype).reshape(shape) == rows * 2).all()


def test_late_call_is_answered_and_a_stuck_process_is_started_again_in_true_words(tmp_path, capfd) -> None:
    source = TOYS.replace("timeout_s=0.3", "timeout_s=0.2")
    with working(tmp_path, write_service(tmp_path, source)) as asking:
        late = asking.call("sleep", duration_s=30.0)
        assert isinstance(late, ServiceLate) and "within 0.2 s" in late.message
        waited = asking.call("sleep", duration_s=0.0)  # its only place is still taken
        assert isinstance(waited, ServiceLate) and "did not begin this one within 0.2 s" in waited.message
        assert asking.call("greet", name="you") == "hello you"
        asking.process._queueing._gates["sleep"].running[late_call(asking)].given_up_at -= 60.0

        async def beside() -> ServiceGone:
            other = asyncio.ensure_future(asking.ask("meet", number=99))
            await asyncio.sleep(0)
            await restarted(asking)
            return await other

        gone = asking.run(beside())
        assert isinstance(gone, ServiceGone) and "a call of sleep hung" in gone.message
        assert "memory" not in gone.message + capfd.readouterr().err
        assert asking.call("sleep", duration_s=0.0) == "woken"


def late_call(asking) -> int:
    return next(iter(asking.process._queueing._gates["sleep"].running))


async def restarted(asking) -> None:
    asking.process._watch()
    while not (asking.process.num_restarts and asking.process.ready):
        await asyncio.sleep(0.02)


def test_death_fails_what_was_on_its_way_and_the_service_comes_back(tmp_path, capfd) -> None:
    with working(tmp_path, write_service(tmp_path)) as asking:

        async def killed() -> list:
            calls = [asyncio.ensure_future(asking.ask("meet", number=99)) for _ in range(3)]
            calls += [asyncio.ensure_future(asking.ask("sleep", duration_s=9.0)) for _ in range(2)]
            await asyncio.sleep(0)
            os.kill(asking.process.pid, signal.SIGKILL)
            return await asyncio.gather(*calls)

        *begun, waiting = asking.run(killed())
        assert all(isinstance(one, ServiceGone) and "SIGKILL" in one.message for one in begun)
        assert isinstance(waiting, ServiceRestarting)  # not begun: whoever stands between may send it again

        async def back() -> str:
            refusals = 0
            while not asking.process.ready:
                with pytest.raises(ServiceRestarting):
                    await asking.ask("greet", name="x")
                refusals += 1
                await asyncio.sleep(0.02)
            assert refusals
            return await asking.ask("greet", name="again")

        assert asking.run(back()) == "hello again"
        assert "Traceback" not in asking.call("fail", how="oil").message
        trace = capfd.readouterr().err
        assert "Traceback" in trace and "it broke: oil" in trace and "is started again" in trace
        gone = asking.call("fail", how="die")
        assert isinstance(gone, ServiceGone) and "code 7" in gone.message


def test_start_that_fails_for_any_reason_is_tried_again(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(processes, "_LAST_PAUSE_S", 0.01)
    with working(tmp_path, write_service(tmp_path)) as asking:
        spawn = asking.process._spawn

        async def failing() -> None:
            asking.process._spawn = spawn
            raise RuntimeError("a defect")

        asking.process._spawn = failing
        os.kill(asking.process.pid, signal.SIGKILL)

        async def back() -> None:
            while asking.process.num_restarts < 2 or not asking.process.ready:
                await asyncio.sleep(0.02)

        asking.run(asyncio.wait_for(back(), 30))
        assert asking.call("greet", name="you") == "hello you"
    assert "cannot be started: RuntimeError" in capfd.readouterr().err


def test_more_calls_than_may_wait_are_refused_at_once(toys) -> None:
    async def flood() -> int:
        toys.process._queueing._max_waiting = 5
        answers = await asyncio.gather(*(toys.ask("greet", name="x") for _ in range(20)), return_exceptions=True)
        toys.process._queueing._max_waiting = 1_000
        assert answers[0] == "hello x"
        return sum(isinstance(answer, ServiceFull) for answer in answers)

    assert toys.run(flood()) == 14  # one runs, five wait


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (TOYS.replace("self.open = self.most = 0", "raise OSError('no weights')"), "no weights"),
        (TOYS.replace("import asyncio, os", "import not_there, os"), "not_there"),
    ],
)
def test_service_that_cannot_be_set_up_says_why(tmp_path, source, words, capfd) -> None:
    manifest = write_service(tmp_path)
    (tmp_path / manifest.service.entry).write_text(source)
    with pytest.raises(ServiceUnfit, match=words), working(tmp_path, manifest):
        pass
