"""A real JupyterLab as a job: reached through the control plane, a kernel started over its API, 1 + 1 asked over its socket."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from skyloom.rooms.jobs.model import JobState
from skyloom.sdk import notebook
from skyloom.sdk.client import Client
from skyloom.sdk.jobs import JobFailed
from skyloom.sdk.notebook import NotebookAddress
from tests.control_plane import ControlPlane
from tests.terminal import Terminal

pytestmark = pytest.mark.slow
SMALL = {"cpus": 0.5, "memory": "1GiB"}


def reached(cloud: Client, job_id: str) -> NotebookAddress:
    try:
        return notebook.address(cloud, job_id, lambda _: None, timeout_s=110)
    except JobFailed as failure:
        if "could not be built" in failure.message:
            pytest.skip(f"no package index of this machine offers JupyterLab: {failure.message}")
        raise


def execute(place: str, token: str, code: str) -> str:
    """Run code in a new kernel by Jupyter's own protocol, and return what it answers."""
    headers = {"authorization": f"token {token}"}
    with httpx.Client(base_url=f"http://{place}", headers=headers, trust_env=False, verify=False, timeout=60) as http:
        kernel = http.post("/api/kernels", json={}).raise_for_status().json()["id"]
        session = uuid.uuid4().hex
        address = f"ws://{place}/api/kernels/{kernel}/channels?session_id={session}"
        header = {"msg_id": uuid.uuid4().hex, "session": session, "username": "", "msg_type": "execute_request"}
        ask = {
            "header": {**header, "version": "5.3", "date": ""},
            "parent_header": {},
            "metadata": {},
            "content": {"code": code, "silent": False},
            "channel": "shell",
            "buffers": [],
        }
        with connect(address, additional_headers=headers, proxy=None) as channels:
            channels.send(json.dumps(ask))
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                told = json.loads(channels.recv(timeout=60))
                mine = told["parent_header"].get("msg_id") == header["msg_id"]
                if mine and told["msg_type"] == "execute_result":
                    http.delete(f"/api/kernels/{kernel}").raise_for_status()
                    return str(told["content"]["data"]["text/plain"])
    raise AssertionError("the kernel did not answer")


def test_kernel_of_a_notebook_job_answers_through_the_control_plane(
    control_plane: ControlPlane, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SKYLOOM_HOME", str(control_plane.home))
    (tmp_path / "d.csv").write_text("a,b\n1,x\n2,y\n")
    with control_plane.client() as cloud:
        cloud.data.finish(cloud.data.create("letters", tmp_path / "d.csv"), timeout_s=60)
        job_id = notebook.start(cloud, mounts={"data": "dataset:letters"}, **SMALL).job.id  # type: ignore[arg-type]
        found = reached(cloud, job_id)
        again = json.loads(terminal("notebook", "--detach", "--json").out)
        assert again["job"]["id"] == job_id, "one of a name runs at a time"

        argv = [sys.executable, "-m", "skyloom.cli", "notebook", "--port", "0"]
        environment = {**os.environ, "SKYLOOM_HOME": str(control_plane.home)}
        with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            shown = httpx.URL(process.stdout.readline().decode().strip())
            assert shown.params["token"] == found.token
            place = f"{shown.host}:{shown.port}"
            assert httpx.get(f"http://{place}/api/kernels", trust_env=False, verify=False).status_code == 403
            assert execute(place, found.token, "1+1") == "2"
            code = "import os, skyloom.runtime as r; (r.context().job_id, os.listdir(r.context().mounts / 'data'))"
            assert execute(place, found.token, code) == f"('{job_id}', ['rows.parquet'])"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130

        printed = cloud.jobs.logs(job_id).text
        assert found.token not in printed and found.token not in json.dumps(again)
        assert terminal("notebook", "stop").code == 0
        assert cloud.jobs.wait(job_id, timeout_s=30).state is JobState.CANCELLED
        said = terminal("notebook", "stop")
        assert said.code == 5 and "No notebook" in said.err
