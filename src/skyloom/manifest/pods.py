"""Parts of pods that every workload shares: what they may do, what they get, what they mount."""

from typing import Any

from skyloom.core.resources import Resources

Document = dict[str, Any]
USER = 1000  # Ray's own images use it; any image may

SECURITY: Document = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def named(kind: str, api: str, name: str, namespace: str, **more: Any) -> Document:
    """The head of an object."""
    labels = {"app.kubernetes.io/part-of": "skyloom", "app.kubernetes.io/name": name}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **more}


def amounts(resources: Resources) -> Document:
    """Requests equal to limits: a node of the cluster promises tasks what it really has."""
    wanted = {"cpu": f"{round(resources.cpus * 1000)}m", "memory": f"{resources.memory_bytes // 2**20}Mi"}
    if resources.gpus:
        wanted["nvidia.com/gpu"] = str(resources.gpus)
    return {"requests": dict(wanted), "limits": dict(wanted)}


def variables(values: dict[str, str]) -> list[Document]:
    """Environment variables."""
    return [{"name": name, "value": value} for name, value in values.items()]


def secret_volume(name: str, secret: str, *keys: str) -> Document:
    """Some keys of a Secret as files that only their user reads."""
    items = [{"key": key, "path": key} for key in keys]
    return {"name": name, "secret": {"secretName": secret, "defaultMode": 0o440, "items": items}}


def claim(name: str, claimed: str) -> Document:
    """A disk that was claimed."""
    return {"name": name, "persistentVolumeClaim": {"claimName": claimed}}


def empty(name: str) -> Document:
    """A folder that lives as long as its pod."""
    return {"name": name, "emptyDir": {}}


def mount(name: str, path: str, read_only: bool = False) -> Document:
    """A volume's place in a container."""
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}
