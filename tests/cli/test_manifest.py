"""``skyloom manifest``: it needs no cloud, refuses in words what cannot be, and says what to do next."""

import json
from pathlib import Path

import pytest
import yaml

from skyloom.cli import main

IMAGE = ("--image", "registry.example/skyloom:1")
GROUP = "name=cpu,cpus=4,memory=16GiB,min=1,max=10"


def run(*words: str) -> int:
    return main(["manifest", "kubernetes", *words])


def test_manifest_writes_files_and_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    groups = ("--workers", GROUP, "--workers", "name=gpu,cpus=8,memory=64GiB,gpus=1,max=4")
    assert run(str(out), *IMAGE, *groups, "--namespace", "ml", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["apply"] == f"kubectl apply -f {out}"
    assert "skyloom pool add kubernetes ray://skyloom-ray-head-svc.ml.svc:10001" in said["add_pool"]
    assert said["add_pool"].endswith("--grows cpus=8,memory=42598MiB,gpus=1,max=4")
    assert sorted(said["files"]) == sorted(path.name for path in out.iterdir())
    cluster = next(yaml.safe_load_all((out / "50-ray.yaml").read_text()))
    assert [group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]] == ["cpu", "gpu"]


def test_every_installation_has_a_token_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = []
    for name in ("a", "b"):
        assert run(str(tmp_path / name), *IMAGE, "--workers", GROUP) == 0
        secrets.append(yaml.safe_load((tmp_path / name / "10-secret.yaml").read_text())["stringData"]["auth_token"])
    assert secrets[0] != secrets[1] and all(secret not in capsys.readouterr().out for secret in secrets)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", "cpus=4,memory=16GiB"), "lacks name."),
        (("--workers", "name=a,cpus=4"), "lacks memory."),
        (("--workers", "name=a"), "lacks cpus and memory."),
        (("--workers", "name=a,cpus=4,memory=16GiB,size=3"), "has no size."),
        (("--workers", "name=a,name=b,cpus=4,memory=16GiB"), "twice"),
        (("--workers", "name=a,cpus=four,memory=16GiB"), "four"),
        (("--workers", "name=a,cpus=nan,memory=16GiB"), "cannot be"),
        (("--workers", "name=a,cpus=inf,memory=16GiB"), "cannot be"),
        (("--workers", "name=a,cpus=4,memory=lots"), "lots"),
        (("--workers", "name=a,cpus=4,memory=1MiB"), "too small"),
        (("--workers", "name=a,cpus=4,memory=16GiB,min=3,max=2"), "at least 3"),
        (("--workers", "name=a,cpus=4,memory=16GiB,max=-1"), "max_nodes"),
        (("--workers", "name=Big_Nodes,cpus=4,memory=16GiB"), "name"),
        (("--workers", GROUP, "--workers", GROUP), "one name"),
        (("--workers", GROUP, "--namespace", "no spaces"), "namespace"),
        (("--workers", GROUP, "--home-size", "1KiB"), "home_bytes"),
        (("--workers", GROUP, "--tls-secret", "../x"), "tls_secret"),
    ],
)
def test_installation_that_cannot_be_is_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert run(str(tmp_path / "out"), *IMAGE, *words) == 2
    error = capsys.readouterr().err
    assert said in error and "next:" in error
    assert not (tmp_path / "out").exists()


def test_image_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "out"), "--image", "x; rm", "--workers", GROUP) == 2
    assert "image" in capsys.readouterr().err
