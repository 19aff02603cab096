"""Everything that clients do, for as long as one likes, while versions are deployed: memory and files stay flat, and nothing goes wrong."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import grpc
import httpx
import numpy as np
from benchmarks.chaos import models
from benchmarks.chaos.flat import Watched
from benchmarks.chaos.models import Array
from benchmarks.chaos.place import gateway_pids, place, replica_pids, until
from benchmarks.chaos.report import Finding, figure, promise
from benchmarks.measures import Cloud
from benchmarks.serving.wires import Wire, message, numbers, numbers_of_grpc

from skyloom.inference.wire import open_inference_pb2 as pb2
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.serving.model import EndpointState, EndpointStatus
from skyloom.rooms.serving.scaling import Autoscaling
from skyloom.sdk.client import Client
from skyloom.sdk.waiting import retries

STEADY, GATED, CHANGING = "steady", "gated", "changing"
_LIMIT_MIB, _LIMIT_MIB_PER_HOUR = 2.0, 1.0
# The control plane keeps a quarter of an hour of each replica's reports; a run that ends its warm-up before that sees them fill.
_WINDOWS_MIB, _WINDOWS_FULL_S = 6.0, 2_700.0
_PATIENCE_S = 5.0
_NUM_CLIENTS = 6
_SHORT_DEPLOY_S, _LONG_DEPLOY_S = 15.0, 60.0
_ROWS = 32


def run(duration_s: float, rate_per_s: float) -> Iterator[Finding]:
    """Three endpoints: one whose replicas share its ports, one behind the gateway, one that is deployed again and again."""
    versions = [models.good(0), models.good(1)]
    asked = models.rows(_ROWS)
    truths = [models.truths(model, asked) for model in versions]
    with place() as made, made.client() as client, ExitStack() as stack:
        for model in versions:
            models.register(client, "soak", model)
        fixed = Autoscaling(min_replicas=2, max_replicas=2)
        client.endpoints.deploy("soak", "1", name=STEADY, num_replicas=2, cpus=0.25, memory="512MiB")
        client.endpoints.deploy("soak", "1", name=GATED, cpus=0.25, memory="512MiB", scaling=fixed)
        client.endpoints.deploy("soak", "1", name=CHANGING, num_replicas=2, cpus=0.25, memory="512MiB")
        places = [until(name, lambda name=name: _ready(client, name)) for name in (STEADY, GATED, CHANGING)]
        until("the gateway alone before its endpoint", lambda: _is_alone(client))
        watched = _watched(made, client, duration_s)
        clients = [
            Visitor(made.token, places, asked, truths, rate_per_s / _NUM_CLIENTS, seed) for seed in range(_NUM_CLIENTS)
        ]
        for visitor in clients:
            stack.enter_context(visitor)
        deployments, gone = _watch(client, watched, duration_s)
        for visitor in clients:
            visitor.stop()
    yield from _told(clients, deployments)
    yield from _flat(watched, gone)


def _ready(client: Client, name: str) -> EndpointStatus | None:
    status = client.endpoints.get(name)
    return status if status.state is EndpointState.READY else None


def _is_alone(client: Client) -> bool:
    live = [item for item in client.endpoints.get(GATED).replicas if item.replica.ended_at is None]
    return len(live) == 2 and all(item.replica.private for item in live)


def _watched(made: Cloud, client: Client, duration_s: float) -> list[Watched]:
    fills_mib = _WINDOWS_MIB if duration_s < _WINDOWS_FULL_S else 0.0
    found = [Watched("control plane", made.record.pid, fills_mib), Watched("gateway", gateway_pids(client)[0])]
    for name in (STEADY, GATED):
        pids = sorted(replica_pids(client, name).values())
        found += [Watched(f"{name} replica {number}", pid) for number, pid in enumerate(pids, 1)]
    return found


def _watch(client: Client, watched: Sequence[Watched], duration_s: float) -> tuple[int, set[str]]:
    """Look once a second, deploy now and then; returns the deployments, and who is gone."""
    began = time.monotonic()
    pause_s = _SHORT_DEPLOY_S if duration_s < 300 else _LONG_DEPLOY_S
    deployments, gone = 0, set()
    while (passed_s := time.monotonic() - began) < duration_s:
        gone |= {process.name for process in watched if not process.look(time.monotonic())}
        if passed_s >= (deployments + 1) * pause_s and passed_s + pause_s < duration_s:
            deployments += 1
            client.endpoints.deploy("soak", str(deployments % 2 + 1), name=CHANGING)
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began) % 1.0))
    return deployments, gone


def _told(clients: "Sequence[Visitor]", deployments: int) -> Iterator[Finding]:
    done, errors = Counter[str](), Counter[str]()
    for visitor in clients:
        done += visitor.done
        errors += visitor.errors
    yield figure("requests", ", ".join(f"{count:,} {what}" for what, count in sorted(done.items())))
    yield figure("tried again", sum(visitor.again for visitor in clients))
    yield figure("deployments", deployments)
    yield promise("errors and wrong answers", sum(errors.values()), "0", not errors)
    for error, count in errors.most_common(5):
        yield figure("error", f"{count} × {error}")


def _flat(watched: Sequence[Watched], gone: set[str]) -> Iterator[Finding]:
    yield promise("processes that ended", ", ".join(sorted(gone)) or "none", "none", not gone)
    for process in watched:
        line, (first, last), (files, files_then) = process.memory, process.resident_mib, process.files
        most = _LIMIT_MIB + process.fills_mib + _LIMIT_MIB_PER_HOUR * line.hours
        yield promise(
            f"{process.name}: resident",
            f"{first:,.1f} → {last:,.1f} MiB; {line.slope:+,.1f} MiB/h, 95 % of {line.low:+,.1f} to {line.high:+,.1f}",
            f"grows by less than {_LIMIT_MIB + process.fills_mib:g} MiB and {_LIMIT_MIB_PER_HOUR:g} MiB/h",
            line.low * line.hours < most,
        )
        yield promise(f"{process.name}: files", f"{files:g} → {files_then:g}", "flat", files_then <= files + 8)


class Visitor:
    """One client that does everything, in an order of its own, at a rate.

    Attributes:
        done: what it did, and how often.
        errors: what went wrong.
        again: requests that were sent again.
    """

    def __init__(
        self,
        token: str,
        places: Sequence[EndpointStatus],
        asked: Array,
        truths: Sequence[Array],
        rate_per_s: float,
        seed: int,
    ) -> None:
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.again = 0
        self._headers = {"authorization": f"Bearer {token}"}
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._places = places
        self._asked = asked
        self._truths = truths
        self._pause_s = 1.0 / rate_per_s
        self._chance = random.Random(seed)
        self._wire = httpx.Client(timeout=20, trust_env=False)
        self._channels: dict[str, grpc.Channel] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Visitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._wire.close()
        for channel in self._channels.values():
            channel.close()

    def stop(self) -> None:
        """Do nothing more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        works: list[tuple[str, Callable[[EndpointStatus], str]]] = [
            ("JSON", lambda place: self._rest(place, Wire.JSON)),
            ("JSON", lambda place: self._rest(place, Wire.JSON)),
            ("binary", lambda place: self._rest(place, Wire.BINARY)),
            ("gRPC", lambda place: self._call(place, 1)),
            ("gRPC streams", lambda place: self._call(place, 5)),
            ("bad requests", self._bad),
            ("strangers", self._stranger),
            ("reconnects", self._reconnect),
        ]
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause_s, time.monotonic() - 1.0)
            what, work = self._chance.choice(works)
            place = self._chance.choice(self._places)
            try:
                problem = work(place)
            except Exception as error:  # it is what is looked for
                problem = f"{type(error).__name__}: {error}"[:200]
            self.done[what] += 1
            if problem:
                self.errors[f"{what} at {place.endpoint.name}: {problem}"] += 1

    def _rest(self, place: EndpointStatus, wire: Wire) -> str:
        rows, row = self._some()
        sent = message(wire, "soak", {"x": rows})
        answer = self._posted(place, sent.body, {**self._headers, **sent.headers})
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text[:120]}"
        return "" if self._is_right(numbers(answer.content, answer.headers), row, place) else "a wrong answer"

    def _posted(self, place: EndpointStatus, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """As the SDK does: what was lost or turned away is sent again."""
        for number, _ in enumerate(retries(_PATIENCE_S)):
            self.again += bool(number)
            try:
                answer = self._wire.post(f"{place.url}/v2/models/soak/infer", content=body, headers=headers)
            except httpx.TransportError as error:
                lost = error
                continue
            lost = None
            if answer.status_code not in (429, 503):
                return answer
        if lost is not None:
            raise lost
        return answer

    def _call(self, place: EndpointStatus, count: int) -> str:
        rows, row = self._some()
        request = pb2.ModelInferRequest(model_name="soak", raw_input_contents=[rows.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
        for number, _ in enumerate(retries(_PATIENCE_S)):
            self.again += bool(number)
            try:
                answers = self._called(place, request, count)
                break
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:  # type: ignore[attr-defined]
                    raise
                lost: grpc.RpcError = error
        else:
            raise lost
        right = len(answers) == count and all(self._is_right(numbers_of_grpc(one), row, place) for one in answers)
        return "" if right else f"{len(answers)} of {count} answers, or a wrong one"

    def _called(
        self, place: EndpointStatus, request: pb2.ModelInferRequest, count: int
    ) -> list[pb2.ModelInferResponse]:
        stub = GRPCInferenceServiceStub(self._channel(place))
        if count == 1:
            return [stub.ModelInfer(request, metadata=self._metadata, timeout=20)]
        stream = stub.ModelStreamInfer(iter([request] * count), metadata=self._metadata, timeout=20)
        return [part.infer_response for part in stream if not part.error_message]

    def _channel(self, place: EndpointStatus) -> grpc.Channel:
        if place.grpc_address not in self._channels:
            # Else all channels of this process to one address share one connection.
            options = (("grpc.use_local_subchannel_pool", 1),)
            self._channels[place.grpc_address] = grpc.insecure_channel(place.grpc_address, options=options)
        return self._channels[place.grpc_address]

    def _bad(self, place: EndpointStatus) -> str:
        bodies = (b"{", b'{"inputs":[]}', b'{"inputs":[{"name":"y","shape":[1],"datatype":"FP32","data":[1]}]}')
        answer = self._posted(place, self._chance.choice(bodies), {**self._headers, "content-type": "application/json"})
        return "" if 400 <= answer.status_code < 500 else f"{answer.status_code} for a bad request"

    def _stranger(self, place: EndpointStatus) -> str:
        answer = self._posted(place, b"{}", {"authorization": "Bearer nobody", "content-type": "application/json"})
        return "" if answer.status_code == 401 else f"{answer.status_code} for a stranger"

    def _reconnect(self, place: EndpointStatus) -> str:
        self._wire.close()
        self._wire = httpx.Client(timeout=20, trust_env=False)
        if channel := self._channels.pop(place.grpc_address, None):
            channel.close()
        return self._rest(place, Wire.JSON)

    def _some(self) -> tuple[Array, slice]:
        start = self._chance.randrange(_ROWS - 4)
        part = slice(start, start + self._chance.randint(1, 4))
        return self._asked[part], part

    def _is_right(self, found: list[float], part: slice, place: EndpointStatus) -> bool:
        """What is deployed again and again may answer as either version does."""
        able = self._truths if place.endpoint.name == CHANGING else self._truths[:1]
        return any(
            len(found) == truth[part].size and np.allclose(found, truth[part].ravel(), rtol=1e-4, atol=1e-5)
            for truth in able
        )
