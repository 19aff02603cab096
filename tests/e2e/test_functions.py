"""The example pipeline on a real control plane: a new version of a dataset becomes predictions, by a function with a token of its own."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from skyloom.core.events import Origin
from skyloom.rooms.batch.model import BatchOrder
from skyloom.rooms.functions.model import ENDED
from skyloom.rooms.registry.bundle import Manifest
from skyloom.rooms.tenancy.model import Role
from skyloom.rooms.triggers.model import Happening, RunBatch, RunFunction
from skyloom.sdk.triggers import signature_of
from tests.control_plane import ControlPlane
from tests.e2e.test_serving import register
from tests.inference.serving import toy_rows, write_bundle

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples" / "pipeline" / "on_new_version.py"


def _with_columns(bundle: Path) -> Path:
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
    told = msgspec.structs.replace(manifest, columns=tuple("abcd"))
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(told))
    return bundle


def until(is_so: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.1)


def test_new_version_of_a_dataset_is_looked_at_and_predicted_by_a_function_with_its_own_token(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    good = [",".join(map(repr, map(float, row))) for row in toy_rows(30)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,c,d", *good]) + "\n")
    with control_plane.client(patience_s=30) as cloud:
        register(cloud, _with_columns(write_bundle(tmp_path / "bundle")))
        token = cloud.tokens.create("pipeline", Role.EDITOR)
        cloud.secrets.set("pipeline", token.secret)
        made = cloud.functions.deploy(EXAMPLE, secrets={"pipeline": "PIPELINE_TOKEN"})
        assert made.function.name == "on-new-version" and made.methods[0].parameters[0].annotation == "TriggerEvent"
        run = RunFunction(function="on-new-version")
        cloud.triggers.create("rescore", Happening.DATASET_VERSION, run, where={"dataset": "rows"})
        by_hand = cloud.triggers.create("by-hand", Happening.HTTP, run)
        cloud.data.finish(cloud.data.create("rows", tmp_path / "rows.csv"), timeout_s=60)
        until(lambda: cloud.triggers.get("rescore").trigger.num_delivered)
        (delivery,) = cloud.triggers.get("rescore").deliveries
        call = delivery.delivery.began
        answer = cloud.invocations.wait(call, timeout_s=60)
        assert answer["predicted"], cloud.invocations.get(call)
        job = cloud.jobs.wait(answer["job"], timeout_s=60).job
        assert (job.submitted_by, job.cause) == ("pipeline", Origin(id=call, depth=1))
        until(lambda: cloud.data.get("said").num_versions)
        # By the signed address; what the event lacks makes the call fail, and it is tried again and at last a dead letter.
        body = b'{"who": "me"}'
        signature = signature_of(body, by_hand.secret)
        headers = {"Skyloom-Signature": signature, "Content-Type": "application/json"}
        said = [httpx.post(control_plane.url + by_hand.hook, content=body, headers=headers) for _ in range(2)]
        assert [one.status_code for one in said] == [202, 202] and said[0].json() == said[1].json()
        refused = httpx.post(control_plane.url + by_hand.hook, content=b"{}", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "hook_refused")
        order = BatchOrder(dataset="rows", model="toy", to="said-at-once")
        at_once = cloud.triggers.create("at-once", Happening.HTTP, RunBatch(order=order))
        headers = {**headers, "Skyloom-Signature": signature_of(b"{}", at_once.secret)}
        assert httpx.post(control_plane.url + at_once.hook, content=b"{}", headers=headers).status_code == 202
        until(lambda: cloud.triggers.get("at-once").deliveries)
        begun = cloud.triggers.get("at-once").deliveries[0].delivery
        assert cloud.jobs.wait(begun.began, timeout_s=60).job.cause == Origin(id=begun.id, depth=1)
        until(lambda: any(one.attempts for one in cloud.invocations.list().items if one.id != call))
        cloud.functions.delete("on-new-version")
        until(lambda: all(one.state in ENDED for one in cloud.invocations.list().items))
        letters = cloud.invocations.list(state="dead").items
        assert [one.trigger for one in letters] == [by_hand.trigger.id] and not cloud.functions.list().items
