"""The line from a task to its control plane: operations as HTTP requests, with the task's own token."""

import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import msgspec

from skyloom.core.errors import ErrorBody, Unavailable, rebuild
from skyloom.core.operation import Operation
from skyloom.ports.series import Point
from skyloom.rooms.tracking.model import LogMeasurements
from skyloom.runtime.context import Context

Answer = TypeVar("Answer")
_TIMEOUT_S = 10.0


class Line:
    """Asks the control plane. Raises the error that the control plane answered, and `Unavailable` when there is no answer."""

    def __init__(self, here: Context, transport: httpx.BaseTransport | None = None) -> None:
        self._project = here.project
        self._client = httpx.Client(
            base_url=here.url,
            headers={"authorization": f"Bearer {here.token}"},
            timeout=_TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )

    def do(self, ask: Operation[Answer]) -> Answer:
        """Send one operation and return its answer."""
        route = ask.route
        fields: dict[str, Any] = msgspec.to_builtins(ask)
        path = route.full_path.format(project=self._project, **fields)
        body = {name: value for name, value in fields.items() if f"{{{name}}}" not in route.full_path}
        try:
            reply = self._client.request(route.verb.value, path, content=msgspec.json.encode(body))
        except httpx.TransportError as error:
            raise _no_answer(str(error)) from error
        if reply.is_success:
            answer: Answer = msgspec.json.decode(reply.content, type=route.answer)
            return answer
        raise _refusal(reply)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def measurements_sender(here: Context, line: Line | None = None) -> Callable[[int, tuple[Point, ...]], None]:
    """A `report.Send` for this process's run. Its source is new each time, so its sequence may start at 1."""
    connection = line or Line(here)
    source = f"{here.task_id}.{secrets.token_hex(4)}"

    def send(sequence: int, points: tuple[Point, ...]) -> None:
        connection.do(LogMeasurements(run_id=here.run, source=source, sequence=sequence, points=points))

    return send


def _refusal(reply: httpx.Response) -> Exception:
    try:
        return rebuild(msgspec.json.decode(reply.content, type=ErrorBody))
    except msgspec.MsgspecError:
        return _no_answer(f"it answered {reply.status_code}")


def _no_answer(why: str) -> Unavailable:
    return Unavailable(f"The control plane does not answer: {why}.", next_action="It will be asked again.")
