"""The Ray cluster as KubeRay's operator (1.6 or newer) makes it: token on, nodes between the numbers that were asked for."""

from skyloom.core.resources import Resources
from skyloom.manifest.model import (
    CA_FOLDER,
    CLIENT_PORT,
    HEAD_PORT,
    NODE_FOLDER,
    RAY_VERSION,
    SHARED_FOLDER,
    Installation,
    WorkerGroup,
)
from skyloom.manifest.pods import (
    SECURITY,
    USER,
    Document,
    amounts,
    claim,
    empty,
    mount,
    named,
    secret_volume,
    variables,
)

_HEAD = Resources(cpus=2, memory_bytes=8 * 2**30)
_AUTOSCALER = Resources(cpus=0.5, memory_bytes=2**30)


def documents(wanted: Installation) -> list[Document]:
    """The RayCluster, and what keeps its head from being moved for tidiness."""
    spec = {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token", "secretName": f"{wanted.name}-ray-token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": wanted.idle_s,
            "resources": amounts(_AUTOSCALER),
            "securityContext": SECURITY,
        },
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},  # tasks belong on nodes that may be replaced
            "template": _pod(wanted, "ray-head", _HEAD, _head_ports()),
        },
        "workerGroupSpecs": [_group(wanted, group) for group in wanted.groups],
    }
    labels = {"ray.io/cluster": wanted.cluster, "ray.io/node-type": "head"}
    budget = {"maxUnavailable": 0, "selector": {"matchLabels": labels}}
    return [
        named("RayCluster", "ray.io/v1", wanted.cluster, wanted.namespace, spec=spec),
        named("PodDisruptionBudget", "policy/v1", f"{wanted.cluster}-head", wanted.namespace, spec=budget),
    ]


def _group(wanted: Installation, group: WorkerGroup) -> Document:
    return {
        "groupName": group.name,
        "replicas": group.min_nodes,
        "minReplicas": group.min_nodes,
        "maxReplicas": group.max_nodes,
        "rayStartParams": {},
        "template": _pod(wanted, "ray-worker", group.resources, []),
    }


def _head_ports() -> list[Document]:
    ports = {"gcs-server": HEAD_PORT, "client": CLIENT_PORT, "dashboard": 8265}
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()]


def _pod(wanted: Installation, container: str, resources: Resources, ports: list[Document]) -> Document:
    """A node. It is never restarted in place: another pod is another node, and tasks are told apart by that."""
    mounts = [mount("shared", SHARED_FOLDER), mount("tasks", NODE_FOLDER)]
    volumes = [claim("shared", f"{wanted.name}-shared"), empty("tasks")]
    told = {"RAY_USAGE_STATS_ENABLED": "0", "HOME": NODE_FOLDER}  # where the engine keeps its folders
    if wanted.private_ca:
        mounts.append(mount("ca", CA_FOLDER, read_only=True))
        volumes.append(secret_volume("ca", wanted.tls_secret, "ca.crt"))
        told["SSL_CERT_FILE"] = f"{CA_FOLDER}/ca.crt"
    one = {
        "name": container,
        "image": wanted.image,
        "env": variables(told),
        "resources": amounts(resources),
        "securityContext": SECURITY,
        "volumeMounts": mounts,
        **({"ports": ports} if ports else {}),
    }
    # The head's autoscaler asks Kubernetes for nodes, with the account that the operator makes; tasks run on workers only.
    has_token = container == "ray-head"
    spec = {
        "containers": [one],
        "volumes": volumes,
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "securityContext": {"fsGroup": USER, "runAsNonRoot": True},
        **({} if has_token else {"automountServiceAccountToken": False}),
    }
    annotations = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    return {"metadata": {"annotations": annotations}, "spec": spec}
