"""An endpoint that sleeps: requests are held while a replica starts, and answered rightly; nobody flaps."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from skyloom.rooms.serving.scaling import Autoscaling
from skyloom.sdk.client import Client
from tests.control_plane import ControlPlane
from tests.e2e.test_serving import register, until
from tests.inference.serving import INFER, body, oracle, toy_rows, write_bundle

SLEEPY = Autoscaling(
    min_replicas=0, max_replicas=2, target=4.0, window_s=6.0, scale_to_zero_after_s=1.0, scale_down_delay_s=0.0
)


def asleep(cloud: Client) -> bool:
    status = cloud.endpoints.get("toy")
    return status.endpoint.num_replicas == 0 and all(item.replica.ended_at for item in status.replicas)


@pytest.mark.slow
def test_sleeping_endpoint_is_woken_by_a_request_which_is_held_and_answered(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    rows = toy_rows(3)
    with control_plane.client() as cloud:
        register(cloud, bundle)
        cloud.endpoints.deploy("toy", cpus=0.2, memory="512MiB", scaling=SLEEPY)
        status = cloud.endpoints.wait("toy", timeout_s=60)
        until(lambda: asleep(cloud), 60)
        headers = {"authorization": f"Bearer {control_plane.token}"}
        with httpx.Client(base_url=status.url, headers=headers, timeout=40, trust_env=False, verify=False) as web:
            answer = web.post(INFER, json=body(rows))
        assert answer.status_code == 200, answer.text
        scores = np.array(answer.json()["outputs"][0]["data"], dtype=np.float32).reshape(3, -1)
        assert np.allclose(scores, oracle(bundle, rows), atol=1e-6)
        until(lambda: asleep(cloud), 60)
        said = [item.what for item in cloud.overview.why(status.endpoint.id).evidence]
        moves = [what.partition(":")[0] for what in said if "replica" in what and "→" in what]
        assert moves == [
            "1 replica → 0 replicas (idle)",
            "0 replicas → 1 replica (wake)",
            "1 replica → 0 replicas (idle)",
        ]
        cloud.endpoints.stop("toy")
