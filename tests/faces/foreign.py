"""Two projects on one real control plane: everything in project ``theirs``, nobody's business in project ``ours``."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from skyloom.core import digests
from skyloom.core.events import Origin
from skyloom.core.operation import Operation
from skyloom.embedded import Embedded
from skyloom.ports.store import Transaction
from skyloom.rooms.functions.model import CloudFunction, Invocation, InvocationState
from skyloom.rooms.functions.ports import FUNCTIONS, INVOCATIONS
from skyloom.rooms.monitoring.model import Alert, Signal
from skyloom.rooms.monitoring.ports import ALERTS
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.serving.predictions import name_prediction
from skyloom.rooms.triggers.model import Happening, RunFunction, Trigger, TriggerState, When
from skyloom.rooms.triggers.ports import TRIGGERS
from skyloom.settings import Settings
from tests.control_plane import ControlPlane
from tests.inference.serving import write_bundle

OURS, THEIRS = "ours", "theirs"
ALERT = "alert_01m7z00000000000000000b0b0"
INVOCATION = "inv_01m7z00000000000000000b0b0"
CSV, SCRIPT = b"n,kind\n1,a\n2,b\n3,a\n", b"print('theirs')\n"
SLEEP = {"entry": {"type": "command", "argv": ["sleep", "120"]}, "resources": {"cpus": 0.1, "memory_bytes": 2**26}}

TRIAL = {
    "workers": 1,
    "started_at": 1.0,
    "ended_at": 9.0,
    "times": {"total_steps": 100, "last_step": 5, "began_at": 2.0, "ended_at": 8.0, "step_s": [1.0, 1.1, 0.9, 1.0]},
}


def start(folder: Path) -> ControlPlane:
    """A control plane with the two projects and one alert of theirs, which nothing but a sick endpoint could make."""
    home = folder / "home"
    embedded = Embedded(Settings.read({}, home=_made(home), warm_pool=False))
    alert = Alert(
        id=ALERT,
        project=THEIRS,
        endpoint="ep_theirs",
        endpoint_name="secret-ep",
        signal=Signal.DRIFT,
        value=1.0,
        threshold=0.2,
        message="theirs",
        fired_at=1.0,
    )
    embedded.store.write(lambda tx: tx.insert(ALERTS, alert))
    embedded.store.write(_functions)
    embedded.close()
    return ControlPlane(home, forked=True).start().ready()


def _functions(tx: Transaction) -> None:
    """A function of theirs and a dead letter; nothing runs for them."""
    function = CloudFunction(
        id="fn_theirs",
        project=THEIRS,
        name="secret-function",
        endpoint_id="ep_theirs",
        max_attempts=1,
        created_at=1.0,
        created_by="them",
    )
    tx.insert(FUNCTIONS, function)
    letter = Invocation(
        id=INVOCATION,
        project=THEIRS,
        function=function.name,
        function_id=function.id,
        method="f",
        arguments="{}",
        key="secret-key",
        state=InvocationState.DEAD,
        max_attempts=1,
        next_at=1.0,
        created_at=1.0,
        created_by="them",
        token_id="",
        ended_at=time.time(),
        cause=Origin(id=INVOCATION, depth=0),
    )
    tx.insert(INVOCATIONS, letter)
    trigger = Trigger(
        id="trigger_theirs",
        project=THEIRS,
        name="secret-trigger",
        when=When(kind=Happening.JOB_ENDED),
        run=RunFunction(function="secret-function"),
        max_per_hour=1,
        created_at=1.0,
        created_by="them",
        owner="them",
        token_id="",
        state=TriggerState.PAUSED,
        cursor=0,
    )
    tx.insert(TRIGGERS, trigger)


def _made(home: Path) -> Path:
    home.mkdir(mode=0o700)
    return home


class World:
    """Clients by role in ``ours``, and the ids of what is in ``theirs`` by noun."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.http = httpx.Client(base_url=plane.url, trust_env=False, verify=False, timeout=30)
        for project in (OURS, THEIRS):
            self._made("/v1/projects", {"name": project})
        self.tokens = {
            role: self._made(f"/v1/projects/{OURS}/tokens", {"name": f"our-{role}", "role": role})["secret"]
            for role in ("viewer", "predictor", "editor", "admin")
        }
        self.job = self._made(f"/v1/projects/{OURS}/jobs", {"spec": SLEEP})["job"]["id"]
        self.tokens["task"] = self._secret_of(f"{self.job}.1.0")
        code = self.made_device(OURS, "our-device")
        self.device = code["device"]["id"]
        self.tokens["join"] = code["code"]
        joined = self._join(code)
        self.tokens["device"] = joined["token"]
        self.ids = dict(self._fill(folder))

    def made_device(self, project: str, name: str, **labels: str) -> dict[str, Any]:
        """Enrol a device; the answer holds its join code."""
        return self._made(f"/v1/projects/{project}/devices", {"name": name, "labels": labels})

    def _join(self, enrolled: dict[str, Any]) -> dict[str, Any]:
        path = f"/v1/projects/{OURS}/devices/{enrolled['device']['id']}/join"
        headers = {"authorization": f"Bearer {enrolled['code']}"}
        response = self.http.post(path, json={"nonce": "1" * 32}, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()  # type: ignore[no-any-return]

    def _secret_of(self, task_id: str) -> str:
        file, deadline = self.plane.home / "engine" / task_id / "secrets" / "TOKEN", time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline, "the task does not start"
            time.sleep(0.02)
        return file.read_text()

    def _fill(self, folder: Path) -> Iterator[tuple[str, str]]:
        place = f"/v1/projects/{THEIRS}"
        sources = {name: self._uploaded(place, content) for name, content in (("d.csv", CSV), ("t.py", SCRIPT))}
        yield "job", self._made(f"{place}/jobs", {"spec": SLEEP})["job"]["id"]
        array = {"spec": {**SLEEP, "name": "secret-array"}, "size": 3, "max_parallel": 1}
        yield "array", self._made(f"{place}/arrays", array)["array"]["id"]
        put = self.http.put(f"{place}/secrets/secret-password", json={"value": "theirs"}, headers=self.owner)
        assert put.status_code == 200, put.text
        template = {"jobs": {"secret-job": {"spec": {**SLEEP, "entry": {"type": "command", "argv": ["true"]}}}}}
        put = self.http.put(f"{place}/templates/secret-template", json=template, headers=self.owner)
        assert put.status_code == 200, put.text
        schedule = {"name": "secret-schedule", "cron": "@yearly", "spec": SLEEP}
        yield "schedule", self._made(f"{place}/schedules", schedule)["schedule"]["id"]
        yield "token", self._made(f"{place}/tokens", {"name": "secret-token"})["token"]["id"]
        yield "alert", ALERT
        yield "invocation", INVOCATION
        hook = {"url": "https://93.184.215.14/secret-hook", "kinds": ["budget"]}
        yield "webhook", self._made(f"{place}/webhooks", hook)["webhook"]["id"]
        limits = {"limits": {"usd": 1e6}}
        answer = self.http.put(f"{place}/budgets", json=limits, headers=self.owner)
        yield "budget", answer.json()["budget"]["id"]
        train = {"script": "t.py", "files": {"t.py": sources["t.py"]}, "name": "secret-run", "resources": {"cpus": 0.1}}
        yield "run", self._made(f"{place}/trainings", train)["run"]["id"]
        plan = {"name": "secret-plan", "trials": [TRIAL], "aim": {"max_workers": 1}}
        yield "plan", self._made(f"{place}/plans", plan)["id"]
        making = {"type": "ingest", "sources": [{"path": "d.csv", "digest": sources["d.csv"]}], "format": "csv"}
        resources = {"cpus": 0.1, "memory_bytes": 2**30}
        asked = {"name": "secret-data", "making": making, "resources": resources}
        draft = self._made(f"{place}/datasets", asked)["draft"]
        yield from (("draft", draft["id"]), ("dataset", draft["dataset_id"]))
        bundle = write_bundle(folder / "bundle")
        manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
        for file in manifest.files:
            self._uploaded(place, (bundle / file.path).read_bytes())
        version = self._made(f"{place}/models/secret-model/versions", {"manifest": msgspec.to_builtins(manifest)})
        yield "version", version["id"]
        yield "file", manifest.files[0].digest
        yield "device", self.made_device(THEIRS, "secret-device", site="secret")["device"]["id"]
        asked = {"model": "secret-model", "labels": {"site": "secret"}}
        yield "rollout", self._made(f"{place}/rollouts", asked)["rollout"]["id"]
        deploy = {"model": "secret-model", "name": "secret-ep", "resources": {"cpus": 0.1, "memory_bytes": 2**29}}
        status = self._made(f"{place}/endpoints", deploy)
        yield from (("endpoint", status["endpoint"]["id"]), ("revision", status["revisions"][0]["id"]))
        replica = self._first_replica(place)
        yield from (("replica", replica), ("prediction", name_prediction(replica, 0)))

    def _first_replica(self, place: str) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = self.http.get(f"{place}/endpoints/secret-ep", headers=self.owner).json()
            if answer.get("replicas"):
                return str(answer["replicas"][0]["replica"]["id"])
            time.sleep(0.05)
        raise AssertionError("no replica was made")

    @property
    def owner(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.plane.token}"}

    def _made(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        response = self.http.post(path, json=fields, headers=self.owner)
        assert response.status_code == 200, response.text
        return response.json()  # type: ignore[no-any-return]

    def _uploaded(self, place: str, content: bytes) -> str:
        digest = digests.of_bytes(content)
        assert self.http.put(f"{place}/blobs/{digest}", content=content, headers=self.owner).status_code == 201
        return digest

    def send(self, ask: Operation[Any], role: str, project: str = OURS) -> httpx.Response:
        """Ask as somebody of ``ours``, over the wire."""
        fields, route = msgspec.to_builtins(ask), type(ask).route
        in_path = {name: str(fields.pop(name, "")) for name in route.path_fields}
        path = route.full_path.format(project=project, **in_path)
        headers = {"authorization": f"Bearer {self.tokens[role]}"}
        told = {"json" if route.has_body else "params": fields}
        return self.http.request(route.verb.value, path, headers=headers, **told)

    def absent(self, ask: Operation[Any]) -> Operation[Any]:
        """The same request about things that nobody has."""
        return msgspec.json.decode(self.hidden(msgspec.json.encode(ask).decode()), type=type(ask))

    def hidden(self, text: str) -> str:
        """A text with everything of theirs called as if it were absent."""
        text = text.replace(self.ids["prediction"], name_prediction(self.ids["replica"][:-4] + "zzzz", 0))
        for known in self.ids.values():
            text = text.replace(known, known[:-4] + "zzzz")
        return text.replace("secret-", "absent-").replace(f"{THEIRS}'", f"{OURS}'")
