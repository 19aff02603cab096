"""Pure decisions of functions: what becomes of a call by what was answered, and when it is made again."""

import base64
from typing import Any

import msgspec

from skyloom.core.resources import Resources
from skyloom.ports.store import changed
from skyloom.rooms.functions import model
from skyloom.rooms.functions.model import INVOCATION_MOVES, Invocation, InvocationState
from skyloom.rooms.functions.ports import ErrandResult
from skyloom.rooms.registry.services import Answering, ServiceMethod
from skyloom.rooms.serving.model import Deploy
from skyloom.rooms.serving.scaling import Autoscaling, ScaleSignal

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 600.0
_MAX_WORDS = 500
# Refusals that the same call meets again. 401, 408 and 429 pass by themselves.
_FOR_GOOD = frozenset({400, 403, 404, 405, 411, 413, 414, 415, 422, 431, 501})


def deployment(ask: model.DeployFunction) -> Deploy:
    """The endpoint that a function is."""
    scaling = Autoscaling(
        min_replicas=0,
        max_replicas=ask.max_replicas,
        signal=ScaleSignal.CONCURRENCY,
        target=float(ask.concurrency),
        window_s=min(60.0, max(6.0, ask.idle_s)),  # what is to fall asleep soon is not watched for longer than that
        scale_down_delay_s=min(30.0, ask.idle_s),
        scale_to_zero_after_s=ask.idle_s,
    )
    resources: Resources | None = ask.resources
    return Deploy(
        model=ask.name,
        version=str(ask.version),
        name=ask.name,
        resources=resources,
        scaling=scaling,
        secrets=ask.secrets,
    )


def entry(methods: tuple[ServiceMethod, ...], name: str, function: str) -> ServiceMethod:
    """The method that is meant, for a call that waits in a queue. Raises `EntryUnclear`."""
    known = ", ".join(method.name for method in methods)
    found = [method for method in methods if name in ("", method.name)]
    if len(found) != 1:
        what = f"has no entry {name!r}" if name else "has several entries"
        raise model.EntryUnclear(f"The function {function} {what}.", next_action=f"Name one of: {known}.")
    if found[0].answering is Answering.PARTS:
        raise model.EntryUnclear(
            f"{found[0].name} of {function} answers in parts, which nobody takes in a queue.",
            next_action="Call it directly, or return all at once.",
        )
    return found[0]


def arguments(method: ServiceMethod, text: str, key: str) -> str:
    """The arguments of a call as they are kept, with its key where the function wants to know it. Raises `ArgumentsUnreadable`."""
    try:
        given = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:  # the second for what is nested too deeply
        raise model.ArgumentsUnreadable(
            f"The arguments are no JSON object: {error}.", next_action='Write them as {"name": "Ann"}.'
        ) from error
    names = {parameter.name for parameter in method.parameters}
    if model.KEY_ARGUMENT in names:
        given.setdefault(model.KEY_ARGUMENT, key)
    missing = [one.name for one in method.parameters if one.required and one.name not in given]
    unknown = sorted(set(given) - names)
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"is given {unknown[0]!r}"
        known = ", ".join(f"{one.name}: {one.annotation}" for one in method.parameters)
        raise model.ArgumentsUnreadable(
            f"The call of {method.name} {what}.", next_action=f"It takes: {known or 'nothing'}."
        )
    return msgspec.json.encode(given).decode()


def sent(invocation: Invocation, now: float) -> Invocation:
    """An invocation that is about to be sent; written before it is."""
    news = {"attempts": invocation.attempts + 1, "started_at": now, "message": ""}
    return _moved(invocation, InvocationState.RUNNING, news)


def settled(invocation: Invocation, result: ErrandResult, now: float) -> Invocation:
    """What an invocation is once something came back."""
    if result.status == 200:
        if len(result.content) > model.MAX_ANSWER_BYTES:
            return dead(invocation, f"It answered with more than {model.MAX_ANSWER_BYTES} bytes.", now)
        try:
            answer = result.content.decode() if result.is_json else _as_bytes(result.content)
        except UnicodeDecodeError:  # whatever it calls itself
            answer = _as_bytes(result.content)
        return _moved(invocation, InvocationState.SUCCEEDED, {"answer": answer, "ended_at": now, "message": ""})
    why = _words(result)
    if result.status in _FOR_GOOD:
        return dead(invocation, f"refused: {why}", now)
    return again(invocation, why, now)


def again(invocation: Invocation, why: str, now: float) -> Invocation:
    """An invocation whose attempt failed: another one after a pause that doubles, until it has had as many as it may."""
    if invocation.attempts >= invocation.max_attempts:
        times = f"{invocation.attempts} attempt{'s' if invocation.attempts > 1 else ''}"
        return dead(invocation, f"failed after {times}: {why}", now)
    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (invocation.attempts - 1))
    return _moved(invocation, InvocationState.QUEUED, {"next_at": now + pause_s, "message": why[:_MAX_WORDS]})


def lost(invocation: Invocation, now: float) -> Invocation:
    """An invocation that was on its way when the control plane ended: nobody knows whether it was made, so it is made again."""
    return again(invocation, "the control plane ended while it was on its way", now)


def dead(invocation: Invocation, why: str, now: float) -> Invocation:
    """An invocation that is given up."""
    return _moved(invocation, InvocationState.DEAD, {"message": why[:_MAX_WORDS], "ended_at": now})


def revived(invocation: Invocation, principal: str, token_id: str, now: float) -> Invocation:
    """A dead letter that is sent again, by whoever asks for it."""
    news = {"attempts": 0, "next_at": now, "ended_at": None, "created_by": principal, "token_id": token_id}
    return _moved(invocation, InvocationState.QUEUED, {**news, "message": f"sent again by {principal}"})


def rooms_of(project: str) -> tuple[str, str]:
    """Where a project's ended calls are counted: answers, which go first, and dead letters."""
    return f"{project}/answered", f"{project}/dead"


def room_of(invocation: Invocation) -> str:
    """Where what an ended call holds is counted."""
    return rooms_of(invocation.project)[invocation.state is InvocationState.DEAD]


def emptied(invocation: Invocation, keep_bytes: int) -> Invocation:
    """An ended call whose arguments and answer made way for newer ones."""
    what = "The arguments" if invocation.state is InvocationState.DEAD else "It was answered; the answer"
    why = f"{what} made way for newer ones: all that a project keeps of ended calls is {keep_bytes} bytes at most."
    why = f"{invocation.message} {why}".strip()[-_MAX_WORDS:]
    return changed(invocation, {"arguments": "", "answer": "", "room": "", "message": why})


def _moved(invocation: Invocation, state: InvocationState, news: dict[str, Any]) -> Invocation:
    INVOCATION_MOVES.check(invocation.id, invocation.state, state)
    return changed(invocation, {"state": state, **news})


def _as_bytes(content: bytes) -> str:
    return f'"{base64.b64encode(content).decode()}"'


def _words(result: ErrandResult) -> str:
    if not result.status:
        return result.problem or "nobody answers"
    try:
        return str(msgspec.json.decode(result.content, type=dict[str, Any])["error"])[:_MAX_WORDS]
    except (msgspec.MsgspecError, RecursionError, KeyError):
        return f"HTTP {result.status}"
