"""Every export is complete, lets nobody in by itself, holds no token, and says what its platform understands."""

import ast
import os
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from skyloom.core.errors import SkyloomError
from skyloom.export import clusters
from skyloom.export.building import NoImageTool, argv, build
from skyloom.export.model import IN_PROCESS, Target
from skyloom.export.requirements import SERVER, PackageMissing, pinned
from skyloom.export.writing import BundleChanged, ExportFolderRefused, ExportThere, files, write
from skyloom.inference.server import PlanRefused, read_plan
from skyloom.rooms.serving.plan import Access, ServePlan
from tests.export.kit import toy, written
from tests.inference.serving import make_plan, write_bundle

every = pytest.mark.parametrize("target", list(Target))
SPECIAL = {
    Target.DOCKER: {"Dockerfile", ".dockerignore"},
    Target.COMPOSE: {"Dockerfile", ".dockerignore", "compose.yaml"},
    Target.KUBERNETES: {"Dockerfile", ".dockerignore", "kubernetes.yaml"},
    Target.KSERVE: {"Dockerfile", ".dockerignore", "kserve.yaml"},
    Target.LAMBDA: {"Dockerfile", "handler.py", "template.yaml"},
    Target.SKYPILOT: {"service.yaml"},
    Target.DSTACK: {"service.dstack.yml"},
    Target.RAY: {"serve_app.py"},
}


def of(tmp_path: Path, target: Target, name: str) -> Any:
    """A YAML file of an export, parsed; a list of documents where there are several."""
    text = files(toy(write_bundle(tmp_path / "b")), target)[name]
    assert isinstance(text, str)
    found = list(yaml.safe_load_all(text))
    return found if len(found) > 1 else found[0]


@every
def test_export_is_complete_and_every_file_can_be_read(tmp_path: Path, target: Target) -> None:
    exported, out = written(target, tmp_path)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    top = {name for name in names if "/" not in name}
    assert top == {"plan.json", "requirements.txt", "README.md", *SPECIAL[target]}
    assert {f"bundle/{name}" for name in exported.files} < names and "skyloom/inference/__main__.py" in names
    assert not any("__pycache__" in name for name in names)
    for path in out.glob("*.py"):
        ast.parse(path.read_text())
    for path in (*out.glob("*.yaml"), *out.glob("*.yml")):
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(path.read_text()))
    plan = read_plan(out / "plan.json")
    assert (plan.behind_proxy, plan.manifest, plan.model, plan.model_version) == (True, exported.manifest, "toy", "7")
    assert all((path.stat().st_mode & 0o444) == 0o444 for path in out.rglob("*") if path.is_file())


def test_image_of_who_hides_his_files_can_be_read_by_its_server(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        _, out = written(Target.DOCKER, tmp_path)
    finally:
        os.umask(before)
    folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
    assert len(folders) > 5 and all(path.stat().st_mode & 0o055 == 0o055 for path in folders)


@every
def test_nobody_may_ask_until_a_token_is_made_and_the_page_says_how(tmp_path: Path, target: Target) -> None:
    told = files(toy(write_bundle(tmp_path / "b")), target)
    assert msgspec.json.decode(told["access/access.json"], type=Access).digests == ()
    page = str(told["README.md"])
    assert "python -m skyloom.inference.tokens access/access.json" in page and "TLS" in page
    assert "toy.v1" in page and "revision 3" in page


@every
def test_page_asks_with_a_row_that_fits_where_a_server_of_ours_listens(tmp_path: Path, target: Target) -> None:
    row = '{"who": "it\'s"}'
    page = str(files(msgspec.structs.replace(toy(write_bundle(tmp_path / "b")), example=row), target)["README.md"])
    if target in IN_PROCESS:
        assert "-d @request.json ADDRESS/v2/models/toy/infer" in page and "8080" not in page.partition("## Ask")[2]
    else:
        (line,) = (line for line in page.splitlines() if line.endswith("http://ADDRESS/predict"))
        assert shlex.split(line)[-2] == row


@pytest.mark.parametrize("target", [Target.DOCKER, Target.LAMBDA])
def test_image_copies_only_what_is_there_and_is_no_root(tmp_path: Path, target: Target) -> None:
    _, out = written(target, tmp_path)
    lines = (out / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line]
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {word[0] for word in words} <= known and words[0][0] == "FROM" and ":" in words[0][1]
    for copy in (word for word in words if word[0] == "COPY"):
        assert all((out / source).exists() for source in copy[1:-1]), copy
    started = [line for line in lines if line.startswith(("ENTRYPOINT", "CMD"))]
    argument = msgspec.json.decode(started[-1].partition(" ")[2])
    if target is Target.DOCKER:
        assert argument == ["python", "-m", "skyloom.inference", "plan.json"]
        user = next(place for place, word in enumerate(words) if word[0] == "USER")
        assert words[user][1].split(":")[0] not in ("0", "root")
        assert all(word[0] not in ("RUN", "COPY") for word in words[user:])
        assert "access" in (out / ".dockerignore").read_text().split()
        check = next(line for line in lines if line.startswith("HEALTHCHECK"))
        ast.parse(msgspec.json.decode(check.partition("CMD ")[2])[2])
    else:
        module, function = argument[0].split(".")
        assert f"{function} = " in (out / f"{module}.py").read_text()


def test_compose_is_read_only_and_open_on_loopback_only(tmp_path: Path) -> None:
    (service,) = of(tmp_path, Target.COMPOSE, "compose.yaml")["services"].values()
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] != "0:0"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert (service["cpus"], service["mem_limit"]) == (1.5, "1024m")
    assert service["volumes"] == ["./access:/app/access:ro"]


@pytest.mark.parametrize("version", ["1.30", "1.33"])
def test_objects_of_kubernetes_are_valid_and_point_at_each_other(tmp_path: Path, version: str) -> None:
    documents = of(tmp_path, Target.KUBERNETES, "kubernetes.yaml")
    by_kind = {document["kind"]: document for document in documents}
    assert set(by_kind) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    spec = by_kind["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == by_kind["Service"]["spec"]["selector"]
    scaling = by_kind["HorizontalPodAutoscaler"]["spec"]
    assert scaling["scaleTargetRef"]["name"] == by_kind["Deployment"]["metadata"]["name"] == "toy-v1"
    assert (scaling["minReplicas"], scaling["maxReplicas"]) == (1, 5)
    pod = spec["template"]["spec"]
    (server,) = pod["containers"]
    assert server["image"] == "registry.example/toy:3" and server["securityContext"]["readOnlyRootFilesystem"]
    assert server["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    assert {one["name"] for one in pod["volumes"]} == {one["name"] for one in server["volumeMounts"]}
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert {port["targetPort"] for port in by_kind["Service"]["spec"]["ports"]} == set(ports)
    assert server["readinessProbe"]["httpGet"]["port"] == ports["http"] == 8080


def test_kserve_has_a_runtime_of_its_own_that_the_service_names(tmp_path: Path) -> None:
    runtime, service = of(tmp_path, Target.KSERVE, "kserve.yaml")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert (
        [model["modelFormat"]["name"]]
        == [one["name"] for one in runtime["spec"]["supportedModelFormats"]]
        == [clusters.FORMAT]
    )
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container" and "storageUri" not in model
    pod = {"containers": [container], "volumes": runtime["spec"]["volumes"]}
    alone = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}
    kubernetes_validate.validate(alone, "1.33", strict=True)


def test_platforms_are_told_port_readiness_and_replicas(tmp_path: Path) -> None:
    sky = of(tmp_path, Target.SKYPILOT, "service.yaml")
    assert sky["service"]["readiness_probe"]["path"] == "/v2/health/ready" and sky["resources"]["ports"] == 8080
    assert sky["service"]["replica_policy"]["max_replicas"] == 5 and "plan.json" in sky["run"]
    stack = of(tmp_path / "2", Target.DSTACK, "service.dstack.yml")
    assert (stack["type"], stack["port"], stack["replicas"], stack["auth"]) == ("service", 8080, "1..5", False)
    assert stack["probes"][0]["url"] == "/v2/health/ready" and "plan.json" in stack["commands"][-1]
    function = of(tmp_path / "3", Target.LAMBDA, "template.yaml")["Resources"]["ModelFunction"]["Properties"]
    assert (function["PackageType"], function["MemorySize"]) == ("Image", 1024) and "FunctionUrlConfig" in function


def test_requirements_are_pinned_and_hold_all_that_the_server_needs() -> None:
    lines = pinned()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*", line) for line in lines), lines
    assert {line.partition("==")[0] for line in lines} >= {*SERVER, "h11", "anyio"}  # httpx needs the last two
    with pytest.raises(PackageMissing, match="no-such-package"):
        pinned(("no-such-package",))


def test_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    _, out = written(Target.DOCKER, tmp_path)
    before = (out / "plan.json").read_bytes()
    with pytest.raises(ExportThere):
        written(Target.DOCKER, tmp_path)
    assert (out / "plan.json").read_bytes() == before


def test_empty_folder_that_one_stands_in_is_filled_and_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, _ = written(Target.DOCKER, tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    contents = {digest: (tmp_path / "source" / name).read_bytes() for name, digest in exported.files.items()}
    assert Path("README.md") in {
        path.relative_to(here) for path in write(exported, Target.DOCKER, Path(), lambda digest: [contents[digest]])
    }
    assert Path("README.md").is_file() and not (tmp_path / ".here.draft").exists()


def test_place_where_no_folder_can_be_is_refused_in_words(tmp_path: Path) -> None:
    exported = toy(write_bundle(tmp_path / "b"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportFolderRefused, match="No folder can be made"):
        write(exported, Target.DOCKER, tmp_path / "file" / "out", lambda _: [])


def test_name_that_begins_with_a_digit_is_one_that_a_service_of_kubernetes_may_have(tmp_path: Path) -> None:
    exported = toy(write_bundle(tmp_path / "b"))
    assert msgspec.structs.replace(exported, name="2048.toy").label == "m-2048-toy"


def test_bundle_that_is_not_what_it_should_be_leaves_nothing(tmp_path: Path) -> None:
    exported = toy(write_bundle(tmp_path / "b"))
    with pytest.raises(BundleChanged):
        write(exported, Target.DOCKER, tmp_path / "out", lambda _: [b"something else"])
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("change", [{"host": "0.0.0.0"}, {"allowed_hosts": ("*",)}, {"log_folder": ""}])
def test_plan_of_a_replica_may_not_do_what_only_an_export_may(tmp_path: Path, change: dict[str, Any]) -> None:
    plan = msgspec.json.decode(make_plan(tmp_path).read_bytes(), type=ServePlan)
    path = tmp_path / "plan.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, **change)))
    with pytest.raises(PlanRefused, match="behind_proxy"):
        read_plan(path)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(plan, **change, behind_proxy=True)))
    assert read_plan(path).behind_proxy


def test_image_is_built_by_the_first_tool_that_is_there(tmp_path: Path) -> None:
    assert argv("buildah", "a/b:1", tmp_path) == ["buildah", "build", "--tag", "a/b:1", str(tmp_path)]
    with pytest.raises(NoImageTool, match="buildah, podman, docker"):
        build("a/b:1", tmp_path, lambda _: None)
    assert issubclass(NoImageTool, SkyloomError)
