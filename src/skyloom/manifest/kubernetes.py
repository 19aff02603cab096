"""All objects of an installation as files, in the order in which they are applied."""

from skyloom.manifest import cluster, network, plane
from skyloom.manifest.model import TOKEN_KEY, Installation
from skyloom.manifest.pods import Document, named


def files(wanted: Installation) -> dict[str, list[Document]]:
    """File name → its objects. The one with secrets says so in its name."""
    return {
        "00-namespace.yaml": [_namespace(wanted)],
        "10-secret.yaml": [_secret(wanted)],
        "20-storage.yaml": _storage(wanted),
        "30-network.yaml": network.documents(wanted),
        "40-control-plane.yaml": plane.documents(wanted),
        "50-ray.yaml": cluster.documents(wanted),
    }


def _namespace(wanted: Installation) -> Document:
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "app.kubernetes.io/part-of": "skyloom"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": wanted.namespace, "labels": labels}}


def _secret(wanted: Installation) -> Document:
    data = {TOKEN_KEY: wanted.ray_token}
    return named(
        "Secret", "v1", f"{wanted.name}-ray-token", wanted.namespace, type="Opaque", immutable=True, stringData=data
    )


def _storage(wanted: Installation) -> list[Document]:
    return [
        _claim(wanted, "home", "ReadWriteOnce", wanted.home_bytes, wanted.storage_class),
        _claim(wanted, "shared", "ReadWriteMany", wanted.shared_bytes, wanted.shared_storage_class),
    ]


def _claim(wanted: Installation, name: str, mode: str, size_bytes: int, storage_class: str) -> Document:
    spec: Document = {
        "accessModes": [mode],
        "resources": {"requests": {"storage": f"{size_bytes // 2**20}Mi"}},
        **({"storageClassName": storage_class} if storage_class else {}),
    }
    return named("PersistentVolumeClaim", "v1", f"{wanted.name}-{name}", wanted.namespace, spec=spec)
