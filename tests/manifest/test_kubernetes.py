"""Every object is what Kubernetes takes, points at what is there, and may do no more than it must. Checked without a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from skyloom.core.resources import Resources
from skyloom.manifest.kubernetes import files
from skyloom.manifest.model import Installation, WorkerGroup
from skyloom.manifest.pods import Document
from skyloom.manifest.writing import FileThere, write

VERSIONS = ("1.30", "1.33")
TOKEN = "t0k3n" * 8
CPU = WorkerGroup(name="cpu", resources=Resources(cpus=3.5, memory_bytes=16 * 2**30), min_nodes=1, max_nodes=10)
GPU = WorkerGroup(name="gpu", resources=Resources(cpus=8, gpus=2, memory_bytes=64 * 2**30), max_nodes=4)
PLAIN = Installation(image="registry.example/skyloom:1", ray_token=TOKEN, groups=(CPU,))
RICH = Installation(
    image="registry.example/skyloom@sha256:" + "0" * 64,
    ray_token=TOKEN,
    groups=(CPU, GPU),
    name="ml",
    namespace="team-a",
    private_ca=True,
    storage_class="fast",
    shared_storage_class="nfs",
)
# What of `spec` KubeRay 1.6 knows, as far as it is used here; its definition was read once, by hand.
RAY_CLUSTER = {
    "": {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "authOptions": {"mode", "secretName"},
    "autoscalerOptions": {"version", "upscalingMode", "idleTimeoutSeconds", "resources", "securityContext"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}


def documents(wanted: Installation) -> list[Document]:
    return [document for part in files(wanted).values() for document in part]


def of_kind(wanted: Installation, kind: str) -> list[Document]:
    return [document for document in documents(wanted) if document["kind"] == kind]


def pods(wanted: Installation) -> Iterator[Document]:
    """All pod templates."""
    (deployment,) = of_kind(wanted, "Deployment")
    (cluster,) = of_kind(wanted, "RayCluster")
    yield deployment["spec"]["template"]
    yield cluster["spec"]["headGroupSpec"]["template"]
    for group in cluster["spec"]["workerGroupSpecs"]:
        yield group["template"]


both = pytest.mark.parametrize("wanted", [PLAIN, RICH], ids=["plain", "rich"])


@both
@pytest.mark.parametrize("version", VERSIONS)
def test_core_objects_are_valid(wanted: Installation, version: str) -> None:
    core = [document for document in documents(wanted) if document["kind"] != "RayCluster"]
    assert len(core) >= 13
    for document in core:
        kubernetes_validate.validate(document, version, strict=True)


@both
@pytest.mark.parametrize("version", VERSIONS)
def test_pods_of_the_ray_cluster_are_valid(wanted: Installation, version: str) -> None:
    for template in pods(wanted):
        alone = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", **template["metadata"]},
            "spec": template["spec"],
        }
        kubernetes_validate.validate(alone, version, strict=True)


@both
def test_ray_cluster_has_the_structure_that_its_operator_knows(wanted: Installation) -> None:
    (cluster,) = of_kind(wanted, "RayCluster")
    spec = cluster["spec"]
    assert cluster["apiVersion"] == "ray.io/v1" and set(spec) == RAY_CLUSTER[""]
    for part in ("authOptions", "autoscalerOptions", "headGroupSpec"):
        assert set(spec[part]) == RAY_CLUSTER[part]
    assert spec["authOptions"] == {"mode": "token", "secretName": f"{wanted.name}-ray-token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group, asked in zip(spec["workerGroupSpecs"], wanted.groups, strict=True):
        assert set(group) == RAY_CLUSTER["workerGroupSpecs"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] == asked.max_nodes
        (node,) = group["template"]["spec"]["containers"]
        assert node["resources"]["limits"] == node["resources"]["requests"]
        assert node["resources"]["limits"].get("nvidia.com/gpu", "0") == str(asked.resources.gpus)
    assert spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "3500m",
        "memory": "16384Mi",
    }


@both
def test_everything_is_in_the_namespace(wanted: Installation) -> None:
    for document in documents(wanted):
        name = document["metadata"].get("namespace", document["metadata"]["name"])
        assert name == wanted.namespace, document["kind"]


@both
def test_what_a_pod_names_is_there(wanted: Installation) -> None:
    claims = {document["metadata"]["name"] for document in of_kind(wanted, "PersistentVolumeClaim")}
    secrets = {document["metadata"]["name"] for document in of_kind(wanted, "Secret")} | {wanted.tls_secret}
    maps = {document["metadata"]["name"] for document in of_kind(wanted, "ConfigMap")}
    for template in pods(wanted):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        used = {mount["name"] for part in template["spec"]["containers"] for mount in part["volumeMounts"]}
        assert used == set(volumes)
        for volume in volumes.values():
            assert "hostPath" not in volume
            assert volume.get("persistentVolumeClaim", {}).get("claimName", next(iter(claims))) in claims
            assert volume.get("secret", {}).get("secretName", wanted.tls_secret) in secrets
            assert volume.get("configMap", {}).get("name", next(iter(maps))) in maps


@both
def test_selectors_find_the_pods_that_they_mean(wanted: Installation) -> None:
    plane = next(pods(wanted))["metadata"]["labels"]
    (service,) = of_kind(wanted, "Service")
    assert service["spec"]["selector"].items() <= plane.items()
    policies = {document["metadata"]["name"]: document["spec"] for document in of_kind(wanted, "NetworkPolicy")}
    assert policies[f"{wanted.name}-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies[f"{wanted.name}-control-plane"]["podSelector"]["matchLabels"].items() <= plane.items()
    from_plane = policies[f"{wanted.name}-ray"]["ingress"][1]
    assert from_plane["from"][0]["podSelector"]["matchLabels"].items() <= plane.items()
    assert from_plane["ports"] == [{"protocol": "TCP", "port": 10001}]
    to_plane = policies[f"{wanted.name}-ray"]["egress"][1]["to"]
    to_nodes = policies[f"{wanted.name}-control-plane"]["egress"][1]["to"]
    assert to_plane == from_plane["from"] and to_nodes == policies[f"{wanted.name}-ray"]["ingress"][0]["from"]


@both
def test_containers_may_do_what_the_restricted_standard_allows(wanted: Installation) -> None:
    (namespace,) = of_kind(wanted, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    (cluster,) = of_kind(wanted, "RayCluster")
    contexts = [cluster["spec"]["autoscalerOptions"]["securityContext"]]
    contexts += [part["securityContext"] for template in pods(wanted) for part in template["spec"]["containers"]]
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False and context["runAsNonRoot"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


@both
def test_tasks_get_no_token_of_the_cluster_that_they_run_in(wanted: Installation) -> None:
    plane, head, *workers = pods(wanted)
    assert all(template["spec"]["automountServiceAccountToken"] is False for template in (plane, *workers))
    assert head["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "2000m"


def test_nodes_trust_a_private_issuer_only_when_told_to() -> None:
    def trusted(wanted: Installation) -> list[str | None]:
        nodes = list(pods(wanted))[1:]
        variables: list[dict[str, Any]] = [
            {pair["name"]: pair["value"] for pair in node["spec"]["containers"][0]["env"]} for node in nodes
        ]
        return [told.get("SSL_CERT_FILE") for told in variables]

    assert trusted(PLAIN) == [None, None]
    assert trusted(RICH) == ["/etc/skyloom/ca/ca.crt"] * 3


def test_amounts_are_what_was_asked_for_and_not_rounded_down_to_whole_units() -> None:
    small = WorkerGroup(name="small", resources=Resources(cpus=0.57, memory_bytes=3 * 2**29))
    wanted = Installation(image="i", ray_token=TOKEN, groups=(small,), home_bytes=3 * 2**29)
    assert list(pods(wanted))[2]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "570m", "memory": "1536Mi"}
    home = of_kind(wanted, "PersistentVolumeClaim")[0]
    assert home["spec"]["resources"]["requests"]["storage"] == "1536Mi"


def test_proxy_lets_the_sockets_of_sessions_through() -> None:
    (config,) = of_kind(PLAIN, "ConfigMap")
    said = config["data"]["nginx.conf"]
    assert "proxy_set_header Upgrade $http_upgrade;" in said
    assert (
        "proxy_set_header Connection $connection_upgrade;" in said and "map $http_upgrade $connection_upgrade" in said
    )


# Files


@both
def test_written_files_read_back_as_the_same_objects(wanted: Installation, tmp_path: Path) -> None:
    written = write(wanted, tmp_path / "out")
    assert [path.name for path in written] == sorted(path.name for path in (tmp_path / "out").iterdir())
    found = [document for path in written for document in yaml.safe_load_all(path.read_text())]
    assert found == documents(wanted)


def test_token_is_in_one_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    written = write(PLAIN, tmp_path)
    holding = [path for path in written if TOKEN in path.read_text()]
    assert [path.name for path in holding] == ["10-secret.yaml"]
    assert holding[0].stat().st_mode & 0o777 == 0o600


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "50-ray.yaml").write_text("mine")
    with pytest.raises(FileThere, match=r"50-ray\.yaml is there already"):
        write(PLAIN, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["50-ray.yaml"]
