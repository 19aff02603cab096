"""A Ray cluster that grows and shrinks: a head without cores, Ray's autoscaler, and nodes of this machine that it starts and ends.

`ray.cluster_utils.AutoscalingCluster` would end every Ray on this machine first, and wants a file that Ray's wheel does not have.
"""

import json
import shutil
import tempfile
from pathlib import Path

from tests.ray_cluster import RayProcess, free_ports, write_token

_HEAD = "f" * 51 + "00000"  # what the provider takes the head for
_IDLE_S = 3.0


class ElasticCluster:
    """Between no node and two, of two cores each.

    Attributes:
        address: for the Ray client.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="se-", dir="/tmp"))
        self.token_file = self.folder / "token"
        write_token(self.token_file)
        port, client = free_ports(2)
        self.address = f"ray://127.0.0.1:{client}"
        config = self.folder / "autoscaling.json"
        config.write_text(json.dumps(_config(port)))
        words = ["--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "0", "--num-gpus", "0"]
        words += ["--ray-client-server-port", str(client), "--object-store-memory", str(80 * 2**20)]
        words += ["--include-dashboard", "false", "--autoscaling-config", str(config)]
        self.node = RayProcess(
            [*words, "--temp-dir", str(self.folder / "r")], self.folder / "log", self.token_file, more=_variables()
        )

    def end(self) -> None:
        """End it, its nodes too, and remove its files."""
        self.node.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def _config(port: int) -> dict[str, object]:
    nodes = {"CPU": 2, "object_store_memory": 80 * 2**20}
    return {
        "cluster_name": "elastic",
        "max_workers": 2,
        "provider": {
            "type": "external",
            "module": "tests.elastic_nodes.ElasticNodes",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": _HEAD,
            "launch_multiple": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "two": {"resources": nodes, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": _IDLE_S / 60,
        **{name: {} for name in ("auth", "file_mounts", "docker")},
        **{name: [] for name in ("cluster_synced_files", "initialization_commands", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
        **{f"{part}setup_commands": [] for part in ("", "head_", "worker_")},
    }


def _variables() -> dict[str, str]:
    root = Path(__file__).resolve().parents[1]
    return {
        "PYTHONPATH": f"{root / 'src'}:{root}",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",  # the one that KubeRay is told to use
        "RAY_CLOUD_INSTANCE_ID": _HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
    }
