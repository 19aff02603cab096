"""A job reads a dataset and a model as folders: exactly the versions of its submission, over a real control plane."""

import json
from pathlib import Path

import httpx
import pytest

from skyloom.core import digests
from skyloom.core.errors import NotFound
from skyloom.rooms.registry.bundle import BundleFile, Manifest
from skyloom.sdk.files import upload_bytes
from tests.control_plane import ControlPlane
from tests.inference.serving import TOY_SIGNATURE
from tests.terminal import Terminal

pytestmark = pytest.mark.slow
SCRIPT = """
import os
from pathlib import Path

import pyarrow.parquet as pq

import skyloom.runtime

mounts = Path(os.environ["SKYLOOM_MOUNTS"])
assert mounts == skyloom.runtime.context().mounts
print(pq.read_table(mounts / "data" / "rows.parquet").to_pydict())
print((mounts / "old" / "model.onnx").read_bytes())
"""


def test_job_reads_the_versions_of_its_submission(
    control_plane: ControlPlane, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SKYLOOM_HOME", str(control_plane.home))
    (tmp_path / "d.csv").write_text("a,b\n1,x\n2,y\n2,y\n")
    (tmp_path / "read.py").write_text(SCRIPT)
    with control_plane.client() as cloud:
        cloud.data.finish(cloud.data.create("letters", tmp_path / "d.csv"), timeout_s=60)
        contents = {"model.onnx": b"network", "profile.json": b"{}"}
        bundle = tuple(
            BundleFile(path=path, digest=upload_bytes(cloud.transport, content), size_bytes=len(content))
            for path, content in contents.items()
        )
        cloud.models.register("toy", Manifest(signature=TOY_SIGNATURE, files=bundle))
        options = ("--cpus", "0.5", "--mount", "data=dataset:letters", "--mount", "old=model:toy:1")
        said = terminal("job", "run", *options, "--json", str(tmp_path / "read.py"))
        job = json.loads(said.out)["job"]
        assert said.code == 0
        assert job["spec"]["mounts"] == {"data": "dataset:letters:1", "old": "model:toy:1"}
        assert [mount["subject"] for mount in job["mounts"]] == ["dataset:letters:1", "model:toy:1"]
        printed = "".join(cloud.jobs.follow(job["id"]))
        assert "{'a': [1, 2, 2], 'b': ['x', 'y', 'y']}" in printed and "b'network'" in printed

        for reference in ("dataset:nowhere", "dataset:letters:9", "model:toy:champion", "model:nowhere:1"):
            refused = terminal("job", "run", *options[:2], "--mount", f"x={reference}", "--", "true")
            assert refused.code != 0 and reference.split(":")[1] in refused.err
        with pytest.raises(NotFound):
            cloud.jobs.run(["true"], mounts={"x": "dataset:nowhere"})


def test_rows_of_another_project_look_absent(control_plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n1,x\n")
    with control_plane.client() as cloud:
        cloud.data.finish(cloud.data.create("letters", tmp_path / "d.csv"), timeout_s=60)
        cloud.projects.create("other")
    owner = {"authorization": f"Bearer {control_plane.token}"}

    def ask(project: str, place: str = "datasets/letters/versions/1/rows.parquet") -> httpx.Response:
        return httpx.get(
            f"{control_plane.url}/v1/projects/{project}/{place}", headers=owner, trust_env=False, verify=False
        )

    mine = ask("default")
    assert mine.status_code == 200 and mine.content[:4] == b"PAR1" and digests.of_bytes(mine.content)
    foreign, absent = ask("other"), ask("other", "datasets/nowhere/versions/1/rows.parquet")
    assert foreign.status_code == absent.status_code == 404
    assert foreign.text.replace("letters", "nowhere") == absent.text
    assert ask("default", "datasets/letters/versions/9/rows.parquet").status_code == 404
    assert ask("default", "datasets/letters/versions/%00/rows.parquet").status_code == 422
