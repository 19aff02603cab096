"""Endpoints from Python: deploy, wait, look, stop; and ask them for predictions, straight at the model server."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from skyloom.core.errors import SkyloomError, Unavailable
from skyloom.core.operation import Page
from skyloom.core.resources import Resources, parse_bytes
from skyloom.rooms.monitoring.model import Traffic
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.registry.model import NEWEST, GetModelVersion
from skyloom.rooms.serving import model
from skyloom.rooms.serving.model import EndpointState, EndpointStatus
from skyloom.rooms.serving.offer import CacheRule, LaneRule
from skyloom.rooms.serving.pack import GuestReport, GuestTraffic
from skyloom.rooms.serving.replicas import default_resources
from skyloom.rooms.serving.routes import RouteTraffic
from skyloom.rooms.serving.scaling import Autoscaling
from skyloom.rooms.serving.split import CanaryPlan
from skyloom.sdk.asking import Answer, meanings, meanings_of, nested, rows_by_name, tensors_of
from skyloom.sdk.asking import PredictionRefused as PredictionRefused
from skyloom.sdk.batch import BatchCalls
from skyloom.sdk.calling import CallFailed, Calling, plain
from skyloom.sdk.calling import ModelServerSilent as ModelServerSilent
from skyloom.sdk.changing import ChangeCalls
from skyloom.sdk.http import connection
from skyloom.sdk.secrets import SecretWords, secret_uses
from skyloom.sdk.transport import Transport
from skyloom.sdk.waiting import retries

_PAUSE_S = 0.1
_SERVER_ERROR = 500


class EndpointFailed(Unavailable):
    """An endpoint that was waited for does not come up."""


class EndpointCalls(ChangeCalls):
    """``cloud.endpoints``."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._wire: httpx.Client | None = None
        self._callings: dict[str, Calling] = {}
        self._manifests: dict[tuple[str, str], Manifest | None] = {}
        self._servers: dict[tuple[str, str], tuple[EndpointStatus, dict[str, Any]]] = {}

    def close(self) -> None:
        """Let go of connections to model servers."""
        if self._wire is not None:
            self._wire.close()

    def deploy(
        self,
        model_name: str,
        version: str = "",
        *,
        name: str | None = None,
        num_replicas: int | None = None,
        cpus: float | None = None,
        memory: str | None = None,
        hold: bool = False,
        canary: CanaryPlan | None = None,
        scaling: Autoscaling | None = None,
        picture_urls: bool | None = None,
        cache: CacheRule | None = None,
        lanes: LaneRule | None = None,
        num_gateways: int | None = None,
        secrets: SecretWords | None = None,
    ) -> EndpointStatus:
        """Serve a model version, or give a living endpoint a new revision. Returns at once; see `wait`.

        Args:
            version: number or alias; empty for the newest.
            name: of the endpoint; the model's name if None.
            cpus, memory: of each replica ("512MiB"); None keeps what it has.
            hold: the new revision gets no traffic until `route` sends it some.
            canary: it gets its traffic step by step, and goes back when it is worse.
            cache, lanes: answers given again; who may go first. None keeps what it has.
            scaling: the number of replicas follows the load; None keeps what it has, but ``num_replicas`` alone ends scaling.
            picture_urls: pictures may be named by ``http`` addresses; None keeps what it has.
            num_gateways: processes that share its ports where it needs a gateway; with two, one that dies is not missed.
            secrets: of the project, for the code of a service; None keeps those that it has.
        """
        resources = None
        if cpus is not None or memory is not None:
            has = self._usual(model_name, version, name or model_name)
            resources = Resources(
                cpus=has.cpus if cpus is None else cpus,
                memory_bytes=has.memory_bytes if memory is None else parse_bytes(memory),
                gpus=has.gpus,
            )
        ask = model.Deploy(
            model=model_name,
            version=version,
            name=name,
            num_replicas=num_replicas,
            resources=resources,
            hold=hold,
            canary=canary,
            scaling=scaling,
            picture_urls=picture_urls,
            cache=cache,
            lanes=lanes,
            num_gateways=num_gateways,
            secrets=None if secrets is None else secret_uses(secrets),
        )
        return self._transport.send(ask)

    def _usual(self, model_name: str, version: str, name: str) -> Resources:
        """What a living endpoint's replicas have, or those of a new one would get."""
        try:
            revisions = self.get(name).revisions
        except model.EndpointMissing:
            revisions = ()
        if revisions:
            return max(revisions, key=lambda one: one.number).resources
        ask = GetModelVersion(model=model_name, reference=version or NEWEST)
        return default_resources(self._transport.send(ask))

    def wait(
        self, name: str, *, timeout_s: float = 120.0, watch: Callable[[EndpointStatus], None] = lambda _: None
    ) -> EndpointStatus:
        """Wait until all replicas answer. Raises `EndpointFailed` when they crash again and again, ``TimeoutError``."""
        deadline = time.monotonic() + timeout_s
        while (status := self.get(name)).state is not EndpointState.READY:
            watch(status)
            if status.state in (EndpointState.CRASH_LOOP, EndpointState.STOPPING, EndpointState.STOPPED):
                raise EndpointFailed(
                    f"Endpoint {name} is {status.state.value}: {status.message}",
                    next_action=status.next_action or f"See: skyloom endpoint show {name}.",
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"endpoint {name} is still {status.state.value}: {status.message}")
            time.sleep(_PAUSE_S)
        return status

    def list(self, limit: int = 50, cursor: str | None = None, live: bool = False) -> Page[EndpointStatus]:
        """List endpoints, newest first; with ``live`` only those that were not stopped."""
        return self._transport.send(model.ListEndpoints(limit=limit, cursor=cursor, live=live))

    def get(self, name: str) -> EndpointStatus:
        """Show one endpoint by name or id."""
        return self._transport.send(model.GetEndpoint(name=name))

    def stop(self, name: str) -> EndpointStatus:
        """Stop an endpoint. Safe to repeat."""
        return self._transport.send(model.StopEndpoint(name=name))

    def pack(
        self,
        name: str,
        *add: str,
        remove: Sequence[str] = (),
        memory: str | None = None,
        max_loaded: int | None = None,
    ) -> EndpointStatus:
        """Let an endpoint serve more models under their names, loaded when they are asked for. No replica starts anew.

        Args:
            add: "MODEL" or "MODEL:VERSION".
            remove: names of models that it serves no more.
            memory, max_loaded: what each replica may have in memory of them at once ("2GiB"; so many); None keeps what it is.
        """
        ask = model.PackModels(
            name=name,
            add=add,
            remove=tuple(remove),
            memory_bytes=None if memory is None else parse_bytes(memory),
            max_loaded=max_loaded,
        )
        return self._transport.send(ask)

    def report(
        self,
        name: str,
        replica: str,
        revision: str,
        *,
        ready: bool,
        rest_port: int = 0,
        grpc_port: int = 0,
        traffic: Traffic | None = None,
        guests: Sequence[GuestReport] = (),
        guest_traffic: Sequence[GuestTraffic] = (),
        gpu: float | None = None,
    ) -> model.Reported:
        """Told by a replica about itself; nobody else may."""
        ask = model.ReportTraffic(
            name=name,
            replica=replica,
            revision=revision,
            ready=ready,
            rest_port=rest_port,
            grpc_port=grpc_port,
            traffic=traffic or Traffic(),
            guests=tuple(guests),
            guest_traffic=tuple(guest_traffic),
            gpu=gpu,
        )
        return self._transport.send(ask)

    def report_routes(self, gateway: str, *, ready: bool, routes: Sequence[RouteTraffic] = ()) -> model.Reported:
        """Told by a gateway about itself; nobody else may."""
        return self._transport.send(model.ReportRoutes(gateway=gateway, ready=ready, routes=tuple(routes)))

    def predict(self, name: str, inputs: Any, *, model_name: str = "") -> Answer:
        """Ask an endpoint. The request goes to the model server itself, with this client's token.

        Args:
            inputs: tensor name → rows, or only the rows where the model has one input. Rows are nested lists or arrays, their first axis
                being the batch; or objects, or one object, by the names of the model's columns (else of its inputs): texts as texts,
                None for a missing value.
            model_name: one of the endpoint's pack; empty for its own.

        Raises:
            PredictionRefused: the rows do not fit the model. CallFailed: the model fails on them. ModelServerSilent: no replica answers.
        """
        status, described = self._server(name, model_name)
        if not described["inputs"]:
            raise PredictionRefused(
                "It takes no tensors.",
                next_action="Ask its endpoints; a language model by OpenAI's client, at its url and /v1.",
            )
        rows = rows_by_name(described["inputs"], inputs)
        if rows is not None:
            return self._named(status, described, rows)
        request = {"inputs": tensors_of(described["inputs"], inputs)}
        answered = self._ask(status, "POST", f"/v2/models/{described['name']}/infer", msgspec.json.encode(request))
        model_name, version = answered["model_name"], answered["model_version"]
        outputs = {item["name"]: nested(item["data"], item["shape"]) for item in answered["outputs"]}
        manifest = self._manifest(model_name, version)
        return Answer(
            prediction_id=answered["parameters"]["skyloom-prediction-id"],
            model=model_name,
            model_version=version,
            outputs=outputs,
            predictions=meanings(manifest, outputs) if manifest is not None else (),
        )

    def _named(self, status: EndpointStatus, described: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> Answer:
        """The server itself puts rows by name in order: it knows the texts, and which version answers."""
        name = described["name"]
        told = self._ask(
            status, "POST", f"/v2/models/{quote(name, safe='')}/predict", msgspec.json.encode(rows, enc_hook=plain)
        )
        said = told["predictions"]
        return Answer(
            prediction_id=told["prediction_id"],
            model=name,
            model_version=told["model_version"],
            outputs={output: [row["outputs"][output] for row in said] for output in said[0]["outputs"]},
            predictions=meanings_of(said),
        )

    def _manifest(self, name: str, version: str) -> Manifest | None:
        """What a version's outputs mean; None where that cannot be asked, which is asked once: the answer itself is there."""
        if (name, version) not in self._manifests:
            self._manifests[name, version] = None
            with contextlib.suppress(SkyloomError):
                ask = GetModelVersion(model=name, reference=version)
                self._manifests[name, version] = self._transport.send(ask).manifest
        return self._manifests[name, version]

    def call(self, name: str, method: str, /, **arguments: Any) -> Any:
        """Call an endpoint of a service (`skyloom.Service`); the answer as JSON gives it back.

        Raises `CallRefused`, `CallFailed`, `ModelServerSilent`.
        """
        return self.calling(name).call(method, arguments)

    def stream(self, name: str, method: str, /, **arguments: Any) -> Iterator[Any]:
        """Call an endpoint that answers in parts, and yield them as they come. Raises as `call` does."""
        return self.calling(name).stream(method, arguments)

    def calling(self, name: str, is_function: bool = False) -> Calling:
        """What calls a service's endpoints or a function's entries. Raises `ModelServerSilent`: it is stopped."""
        if name not in self._callings:
            status = self.get(name)
            if not status.url or status.endpoint.stopped_by:
                raise ModelServerSilent(
                    f"Endpoint {name} is {status.state.value}.", next_action=status.next_action or "Deploy it."
                )
            self._callings[name] = Calling(status, self._transport.token, is_function)
        return self._callings[name]

    def _server(self, name: str, model_name: str) -> tuple[EndpointStatus, dict[str, Any]]:
        if (name, model_name) not in self._servers:
            status = self.get(name)
            if not status.url or status.endpoint.stopped_by:
                raise ModelServerSilent(
                    f"Endpoint {name} is {status.state.value}.", next_action=status.next_action or "Deploy it."
                )
            path = f"/v2/models/{quote(model_name or status.endpoint.model, safe='')}"
            self._servers[name, model_name] = (status, self._ask(status, "GET", path, b""))
        return self._servers[name, model_name]

    def _ask(self, status: EndpointStatus, method: str, path: str, content: bytes) -> dict[str, Any]:
        """Predicting changes nothing, so it is sent again when a replica dies with it, as long as the transport has patience."""
        headers = {"authorization": f"Bearer {self._transport.token}", "content-type": "application/json"}
        self._wire = wire = self._wire or connection(status.url)
        problem: str = ""
        for _ in retries(self._transport.patience_s):
            try:
                answer = wire.request(method, status.url + path, content=content, headers=headers)
            except httpx.TransportError as error:
                problem = type(error).__name__
            else:
                if answer.status_code == 200:
                    told: dict[str, Any] = msgspec.json.decode(answer.content)
                    return told
                problem = _said(answer)
                if answer.status_code not in (429, 503):
                    if answer.status_code >= _SERVER_ERROR:
                        raise CallFailed(
                            problem,
                            next_action=f"Read its log: skyloom endpoint show {status.endpoint.name} names its jobs; skyloom job logs JOB.",
                        )
                    raise PredictionRefused(
                        problem, next_action=f"See what it takes: skyloom model show {status.endpoint.model}."
                    )
        raise self._silent(status.endpoint.name, problem)

    def _silent(self, name: str, problem: str) -> ModelServerSilent:
        """What the control plane knows of it says more than a refused connection."""
        with contextlib.suppress(SkyloomError):
            status = self.get(name)
            if status.state is not EndpointState.READY:
                problem = f"it is {status.state.value}: {status.message}"
        return ModelServerSilent(
            f"Endpoint {name} does not answer: {problem}", next_action=f"See: skyloom endpoint show {name}."
        )


class PredictionCalls(BatchCalls):
    """``cloud.predictions``."""

    def find(self, prediction_id: str) -> model.PredictionRecord:
        """Find one prediction in the request logs, and what made it."""
        return self._transport.send(model.FindPrediction(prediction_id=prediction_id))


def _said(answer: httpx.Response) -> str:
    try:
        return str(msgspec.json.decode(answer.content)["error"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"
