"""Kubernetes, by itself or with KServe."""

from skyloom.export.model import ACCESS_FILE, FOLDER, GRPC_PORT, REST_PORT, USER, Exported
from skyloom.export.parts import TOKENS
from skyloom.manifest.pods import SECURITY, Document, amounts, empty, mount, named, secret_volume

_SPACE = "default"
FORMAT = "skyloom"


def kubernetes(exported: Exported) -> list[Document]:
    """Deployment, Service, HorizontalPodAutoscaler, PodDisruptionBudget."""
    name, labels = exported.label, _labels(exported)
    pod = {"metadata": {"labels": labels}, "spec": _pod(exported)}
    spec = {"selector": {"matchLabels": labels}, "template": pod, "strategy": _STRATEGY}
    ports = [
        {"name": "http", "port": REST_PORT, "targetPort": "http", "protocol": "TCP"},
        {
            "name": "grpc",
            "port": GRPC_PORT,
            "targetPort": "grpc",
            "protocol": "TCP",
            "appProtocol": "kubernetes.io/h2c",
        },
    ]
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    busy = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
    }
    scaling = {
        "scaleTargetRef": scaled,
        "minReplicas": exported.min_replicas,
        "maxReplicas": exported.max_replicas,
        "metrics": [busy],
    }
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    return [
        _plain(named("Deployment", "apps/v1", name, _SPACE, spec=spec)),
        _plain(named("Service", "v1", name, _SPACE, spec={"selector": labels, "ports": ports})),
        _plain(named("HorizontalPodAutoscaler", "autoscaling/v2", name, _SPACE, spec=scaling)),
        _plain(named("PodDisruptionBudget", "policy/v1", name, _SPACE, spec=budget)),
    ]


def kserve(exported: Exported) -> list[Document]:
    """A ServingRuntime that is this image, and an InferenceService of it. The model is in the image, so nothing is fetched."""
    name = exported.label
    container = {**_container(exported), "name": "kserve-container"}
    container["ports"] = [{"containerPort": REST_PORT, "protocol": "TCP"}]
    runtime = {
        "supportedModelFormats": [{"name": FORMAT, "version": "1", "autoSelect": False}],
        "protocolVersions": ["v2"],
        "multiModel": False,
        "containers": [container],
        "volumes": _volumes(exported),
    }
    predictor = {
        "minReplicas": exported.min_replicas,
        "maxReplicas": exported.max_replicas,
        "automountServiceAccountToken": False,
        "model": {"modelFormat": {"name": FORMAT, "version": "1"}, "protocolVersion": "v2", "runtime": name},
    }
    return [
        _plain(named("ServingRuntime", "serving.kserve.io/v1alpha1", name, _SPACE, spec=runtime)),
        _plain(named("InferenceService", "serving.kserve.io/v1beta1", name, _SPACE, spec={"predictor": predictor})),
    ]


def start_kubernetes(exported: Exported, file: str) -> str:
    """For the page."""
    return f"""\
    {TOKENS}
    podman build -t {exported.image} . && podman push {exported.image}
    kubectl create secret generic {exported.label}-access --from-file={ACCESS_FILE}
    kubectl apply -f {file}

The list of tokens is a Secret of its own and in no file here. It takes the namespace that kubectl works in.

"""


_STRATEGY = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def _labels(exported: Exported) -> dict[str, str]:
    return {"app.kubernetes.io/name": exported.label, "app.kubernetes.io/component": "model-server"}


def _pod(exported: Exported) -> Document:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {"fsGroup": USER, "runAsNonRoot": True},
        "containers": [_container(exported)],
        "volumes": _volumes(exported),
    }


def _container(exported: Exported) -> Document:
    return {
        "name": "server",
        "image": exported.image,
        "ports": [
            {"name": "http", "containerPort": REST_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
        ],
        "resources": amounts(exported.resources),
        "securityContext": {**SECURITY, "readOnlyRootFilesystem": True},
        "startupProbe": {**_probe("live"), "periodSeconds": 1, "failureThreshold": 120},
        "livenessProbe": {**_probe("live"), "periodSeconds": 10, "failureThreshold": 3},
        "readinessProbe": {**_probe("ready"), "periodSeconds": 2},
        "volumeMounts": [
            mount("run", f"{FOLDER}/run"),
            mount("access", f"{FOLDER}/access", read_only=True),
            mount("temporary", "/tmp"),  # noqa: S108 (an empty volume of this pod)
        ],
    }


def _volumes(exported: Exported) -> list[Document]:
    return [empty("run"), empty("temporary"), secret_volume("access", f"{exported.label}-access", "access.json")]


def _probe(page: str) -> Document:
    return {"httpGet": {"path": f"/v2/health/{page}", "port": REST_PORT}, "timeoutSeconds": 5}


def _plain(document: Document) -> Document:
    """Without a namespace: it is applied where its user works."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "namespace"}
    return {**document, "metadata": metadata}
