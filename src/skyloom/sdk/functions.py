"""Functions from Python: deploy plain Python, call it now or let the call wait for its turn."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from skyloom.core.errors import InternalError, NotFound
from skyloom.core.operation import Done, Page
from skyloom.core.resources import Resources, parse_bytes
from skyloom.rooms.functions import model
from skyloom.rooms.functions.model import FunctionStatus, Invocation, InvocationState
from skyloom.sdk.environment import Requirements
from skyloom.sdk.packing import pack_functions
from skyloom.sdk.secrets import SecretWords, secret_uses
from skyloom.sdk.services import ServiceCalls
from skyloom.sdk.serving import EndpointCalls, EndpointFailed
from skyloom.sdk.transport import Transport

_PAUSE_S = 0.1


class InvocationDead(InternalError):
    """A call that was waited for was given up; the message is its last."""


class AnswerGone(NotFound):
    """A call was answered, and nobody asked before its answer made way for newer ones."""


class FunctionCalls:
    """``cloud.functions``."""

    def __init__(self, transport: Transport, services: ServiceCalls, endpoints: EndpointCalls) -> None:
        self._transport = transport
        self._services = services
        self._endpoints = endpoints

    def deploy(
        self,
        file: str | Path,
        names: Sequence[str] = (),
        *,
        name: str | None = None,
        requirements: Requirements = None,
        timeout_s: float | None = None,
        concurrency: int | None = None,
        cpus: float | None = None,
        memory: str | None = None,
        max_replicas: int = 4,
        idle_s: float = 60.0,
        max_attempts: int = 5,
        secrets: SecretWords | None = None,
    ) -> FunctionStatus:
        """Put functions of a file up: they sleep while nobody asks. Returns at once; `wait` waits until the first process answers.

        Args:
            names: which of its functions; else those that are decorated, or the only one.
            name: of what is called; the file's if None.
            requirements: packages beside those of the pool; else what the file says (PEP 723).
            timeout_s, concurrency: of one call; calls at a time in one process.
            cpus, memory: of each process ("512MiB"); else what the decorators say, else what it has.
            max_replicas, idle_s: processes at most; asleep after so long without a call.
            max_attempts: of a call that waits in the queue.
            secrets: of the project, for its code; None keeps those that it has.
        """
        packed = pack_functions(file, names, requirements=requirements, timeout_s=timeout_s, concurrency=concurrency)
        version = self._services.register_packed(packed, name or Path(file).stem.lower().replace("_", "-"))
        cpus = packed.service.cpus if cpus is None else cpus
        memory = packed.service.memory if memory is None else memory
        resources = None
        if cpus is not None or memory is not None:
            resources = Resources(cpus=0.5 if cpus is None else cpus, memory_bytes=parse_bytes(memory or "512MiB"))
        methods = version.manifest.service.methods if version.manifest.service else ()
        ask = model.DeployFunction(
            name=version.model,
            version=version.number,
            resources=resources,
            max_replicas=max_replicas,
            concurrency=max((method.concurrency or 1 for method in methods), default=1),
            idle_s=idle_s,
            max_attempts=max_attempts,
            secrets=None if secrets is None else secret_uses(secrets),
        )
        return self._transport.send(ask)

    def wait(self, name: str, *, timeout_s: float = 120.0) -> FunctionStatus:
        """Wait until the newest revision answers. Raises `EndpointFailed`, ``TimeoutError``."""
        try:
            self._endpoints.wait(self.get(name).endpoint.endpoint.name, timeout_s=timeout_s)
        except EndpointFailed as error:
            raise EndpointFailed(error.message, next_action=f"Read its log: skyloom function logs {name}.") from error
        return self.get(name)

    def get(self, name: str) -> FunctionStatus:
        """Show one function."""
        return self._transport.send(model.GetFunction(name=name))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[FunctionStatus]:
        """List functions, newest first."""
        return self._transport.send(model.ListFunctions(limit=limit, cursor=cursor))

    def delete(self, name: str) -> Done:
        """Stop a function and forget it. What waits for it becomes dead letters."""
        return self._transport.send(model.DeleteFunction(name=name))

    def call(self, name: str, method: str = "", /, **arguments: Any) -> Any:
        """Call a function and wait for its answer, straight at its own address. Raises as ``endpoints.call`` does."""
        if not method:
            method = self._only(name)
        return self._endpoints.calling(name, is_function=True).call(method, arguments)

    def invoke(self, name: str, method: str = "", /, *, key: str = "", **arguments: Any) -> Invocation:
        """Queue a call and return at once; see ``invocations.wait``. The same key again is the same call."""
        return self.invoke_with(name, arguments, method=method, key=key)

    def invoke_with(self, name: str, arguments: Mapping[str, Any], *, method: str = "", key: str = "") -> Invocation:
        """The same with the arguments as one mapping: a function may have one that is called ``key``."""
        given = msgspec.json.encode(arguments).decode()
        return self._transport.send(model.InvokeFunction(name=name, method=method, arguments=given, key=key))

    def _only(self, name: str) -> str:
        methods = self.get(name).methods
        if len(methods) != 1:
            known = ", ".join(method.name for method in methods) or "none; it is being deployed"
            raise model.EntryUnclear(f"Which entry of {name} is meant?", next_action=f"Name one of: {known}.")
        return methods[0].name


class InvocationCalls:
    """``cloud.invocations``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, invocation_id: str) -> Invocation:
        """Show one invocation, its answer included."""
        return self._transport.send(model.GetInvocation(invocation_id=invocation_id))

    def list(
        self,
        function: str | None = None,
        state: InvocationState | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Invocation]:
        """List invocations, newest first; ``state="dead"`` for the dead letters."""
        wanted = None if state is None else InvocationState(state)
        ask = model.ListInvocations(function=function, state=wanted, limit=limit, cursor=cursor)
        return self._transport.send(ask)

    def retry(self, invocation_id: str) -> Invocation:
        """Send a dead letter again."""
        return self._transport.send(model.RetryInvocation(invocation_id=invocation_id))

    def wait(self, invocation_id: str, *, timeout_s: float = 120.0) -> Any:
        """Wait for a call and return its answer, as JSON gives it back. Raises `InvocationDead`, `AnswerGone`, ``TimeoutError``."""
        deadline = time.monotonic() + timeout_s
        while (found := self.get(invocation_id)).state not in model.ENDED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"invocation {invocation_id} is still {found.state.value}: {found.message}")
            time.sleep(_PAUSE_S)
        if found.state is InvocationState.DEAD:
            raise InvocationDead(found.message, next_action=f"Mend it, then: skyloom function retry {invocation_id}.")
        if not found.answer:
            more = "Ask sooner, or keep more of ended calls: SKYLOOM_ANSWER_SIZE. The same key makes no second call."
            raise AnswerGone(f"Invocation {invocation_id}: {found.message}", next_action=more)
        return msgspec.json.decode(found.answer)
