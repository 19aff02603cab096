"""Platforms that bring their own machines or their own server: SkyPilot, dstack, Ray Serve, AWS Lambda."""

import math

from skyloom.export.model import PLAN_FILE, REST_PORT, Exported
from skyloom.export.parts import TOKENS, installed
from skyloom.manifest.pods import Document

_SERVE = f"python -m skyloom.inference {PLAN_FILE}"
_READY = "/v2/health/ready"
_RATE = 50  # requests a second and replica that these platforms grow by: a first guess, to be measured


def skypilot(exported: Exported) -> Document:
    """service.yaml for ``sky serve up``."""
    policy = {
        "min_replicas": exported.min_replicas,
        "max_replicas": exported.max_replicas,
        "target_qps_per_replica": _RATE,
    }
    return {
        "name": exported.label,
        "service": {"readiness_probe": {"path": _READY, "initial_delay_seconds": 300}, "replica_policy": policy},
        "resources": {"cpus": f"{_cores(exported)}+", "memory": f"{_gigabytes(exported)}+", "ports": REST_PORT},
        "workdir": ".",
        "setup": "python3 -m venv .venv && .venv/bin/pip install " + installed(exported) + "\n",
        "run": f"PYTHONPATH=$PWD .venv/bin/{_SERVE}\n",
    }


def dstack(exported: Exported) -> Document:
    """service.dstack.yml for ``dstack apply``."""
    return {
        "type": "service",
        "name": exported.label,
        "python": exported.python,
        "files": [".:/app"],
        "working_dir": "/app",
        "env": ["PYTHONPATH=/app"],
        "commands": [f"pip install {installed(exported)}", _SERVE],
        "port": REST_PORT,
        "auth": False,  # the server asks for tokens of its own
        "replicas": f"{exported.min_replicas}..{exported.max_replicas}",
        "scaling": {"metric": "rps", "target": _RATE},
        "probes": [{"type": "http", "url": _READY}],
        "resources": {"cpu": f"{_cores(exported)}..", "memory": f"{_gigabytes(exported)}GB.."},
    }


def ray_app(exported: Exported) -> str:
    """serve_app.py: one deployment whose replicas hold the model in their own process."""
    return f'''\
"""{exported.name} on Ray Serve: ``serve run serve_app:app`` in this folder. Tokens, tensors and errors are those of Skyloom's server."""

import asyncio
from pathlib import Path

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from skyloom.inference.direct import DirectSite, open_site

PLAN = Path(__file__).with_name("{PLAN_FILE}")


@serve.deployment(
    name="{exported.label}",
    ray_actor_options={{"num_cpus": {exported.cpus:g}}},
    autoscaling_config={{"min_replicas": {exported.min_replicas}, "max_replicas": {exported.max_replicas}}},
)
class Model:
    def __init__(self) -> None:
        self._opening: asyncio.Task[DirectSite] | None = None

    async def __call__(self, request: Request) -> Response:
        if self._opening is None:
            self._opening = asyncio.create_task(open_site(PLAN))
        site = await self._opening
        said = await site.answer(request.method, request.url.path, dict(request.headers), await request.body())
        headers = {{name.decode("latin-1"): value.decode("latin-1") for name, value in said.headers}}
        return Response(said.body, said.status, headers, said.content_type.decode("latin-1"))


app = Model.bind()
'''


def lambda_handler(exported: Exported) -> str:
    """handler.py: the model in the function's own process, behind its URL."""
    return f'''\
"""{exported.name} as a function: what its URL is asked becomes a request of the Open Inference Protocol."""

from pathlib import Path

from skyloom.inference.function_url import handler_of

handler = handler_of(Path(__file__).with_name("{PLAN_FILE}"))
'''


def lambda_dockerfile(exported: Exported) -> str:
    """The image of a function. The digests of tokens are in it; tokens are not."""
    return f"""\
FROM public.ecr.aws/lambda/python:{exported.python}
ENV PYTHONDONTWRITEBYTECODE=1
COPY requirements.txt ./
RUN pip install --no-cache-dir --requirement requirements.txt
COPY skyloom ./skyloom
COPY bundle ./bundle
COPY access ./access
COPY {PLAN_FILE} handler.py ./
CMD ["handler.handler"]
"""


def lambda_template(exported: Exported) -> Document:
    """template.yaml for ``sam deploy``: the function and its URL."""
    memory = max(512, min(10_240, exported.resources.memory_bytes // 2**20))
    function = {
        "Type": "AWS::Serverless::Function",
        "Properties": {
            "PackageType": "Image",
            "MemorySize": memory,
            "Timeout": 30,
            "FunctionUrlConfig": {"AuthType": "NONE"},  # the function asks for tokens of its own
        },
        "Metadata": {"Dockerfile": "Dockerfile", "DockerContext": ".", "DockerTag": exported.label},
    }
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Transform": "AWS::Serverless-2016-10-31",
        "Resources": {"ModelFunction": function},
        "Outputs": {"Url": {"Value": {"Fn::GetAtt": ["ModelFunctionUrl", "FunctionUrl"]}}},
    }


def start_skypilot(exported: Exported) -> str:
    """For the page."""
    return f"""\
    {TOKENS}
    sky serve up service.yaml

The folder is copied to every replica, the digests of tokens with it. SkyServe's own address has no TLS unless it is given
a certificate (its `tls` section).

"""


def start_dstack(exported: Exported) -> str:
    """For the page."""
    return f"""\
    {TOKENS}
    dstack apply -f service.dstack.yml

A gateway of dstack ends TLS. The folder is copied to every replica, the digests of tokens with it.

"""


def start_ray(exported: Exported) -> str:
    """For the page."""
    return f"""\
    {TOKENS}
    pip install --requirement requirements.txt "ray[serve]"
    serve run serve_app:app

Ray's proxy has no TLS by itself. gRPC is not offered this way.

"""


def start_lambda(exported: Exported) -> str:
    """For the page."""
    return f"""\
    {TOKENS}          # before the image is built: its digests go into the image
    sam build && sam deploy --guided

The function's URL ends TLS. AWS takes bodies of 6 MB at most. gRPC is not offered this way.

"""


def _cores(exported: Exported) -> int:
    return max(1, math.ceil(exported.cpus))


def _gigabytes(exported: Exported) -> int:
    return max(1, math.ceil(exported.resources.memory_bytes / 2**30))
