"""The words of functions and triggers: what is read from a command line, and how it is shown."""

import contextlib
from types import SimpleNamespace

import msgspec
import pytest

from skyloom.cli.function import ArgumentsNotJson, _arguments, call
from skyloom.cli.render import render
from skyloom.cli.trigger import RunUnreadable, run_of
from skyloom.core.events import TriggerEvent
from skyloom.core.operation import Page
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.functions.model import InvocationState, InvokeFunction
from skyloom.rooms.triggers.model import (
    Delivery,
    DeliveryStatus,
    Happening,
    Run,
    RunBatch,
    RunFunction,
    RunTemplateJob,
    Trigger,
    TriggerStatus,
    When,
)
from skyloom.sdk.functions import FunctionCalls

TRIGGER = Trigger(
    id="trigger_1", project="p", name="rescore", when=When(kind=Happening.DATASET_VERSION, where={"dataset": "rows*"}),
    run=RunFunction(function="look", method="at"), max_per_hour=9, created_at=1.0, created_by="ann", owner="ann",
    token_id="token_1", cursor=3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("function:look", RunFunction(function="look")),
        ("function:look/at", RunFunction(function="look", method="at")),
        ("job-template:nightly", RunTemplateJob(template="nightly")),
        ("job-template:nightly/train", RunTemplateJob(template="nightly", job="train")),
        ("batch:dataset=a,model=b,to=c", RunBatch(order=BatchOrder(dataset="a", model="b", to="c"))),
    ],
)
def test_what_is_to_be_run_is_read(text: str, run: Run) -> None:
    assert run_of(text) == run


@pytest.mark.parametrize(
    "text", ["", "look", "function:", "function:A B", "batch:dataset=a", "shell:rm", "job-template:"]
)
def test_what_cannot_be_run_is_said(text: str) -> None:
    with pytest.raises(RunUnreadable, match="Write: function:NAME"):
        run_of(text)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", '{"a":' + "[" * 30_000])
def test_arguments_are_a_json_object(text: str) -> None:
    with pytest.raises(ArgumentsNotJson):
        _arguments(text)


def test_argument_that_is_called_key_is_no_key_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[InvokeFunction] = []

    class Client:
        functions = FunctionCalls(
            SimpleNamespace(send=lambda ask: sent.append(ask) or SimpleNamespace(id="inv_1")), None, None
        )  # type: ignore[arg-type]

    monkeypatch.setattr("skyloom.cli.function.cloud", lambda _: contextlib.nullcontext(Client))
    call("look:at", '{"key":"k","name":"n"}', True, "mine")
    assert sent == [InvokeFunction(name="look", method="at", arguments='{"key":"k","name":"n"}', key="mine")]


def test_trigger_is_shown_as_it_was_asked_for_with_its_deliveries() -> None:
    event = TriggerEvent(id="trigger_1.3", kind="dataset_version", trigger="rescore", at=2.0, subject="d")
    delivery = Delivery(
        id="trigger_1.3", project="p", trigger_id="trigger_1", number=3, at=2.0, event=event, began="inv_1"
    )
    status = TriggerStatus(trigger=TRIGGER, deliveries=(DeliveryStatus(delivery=delivery, state=InvocationState.DEAD),))
    page, line = render(status), render(Page(items=(TRIGGER,)))
    for words in ("dataset_version dataset=rows*", "function:look/at", "active"):
        assert words in page and words in line
    assert "inv_1" in page and "dead" in page
    batch = run_of("batch:dataset=a,model=b,to=c")
    assert "batch:dataset=a,model=b,to=c" in render(msgspec.structs.replace(TRIGGER, run=batch))
