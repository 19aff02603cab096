"""Container images, and one machine that runs them."""

from skyloom.export.model import FOLDER, GRPC_PORT, PLAN_FILE, REST_PORT, USER, Exported
from skyloom.export.parts import TOKENS, installed
from skyloom.manifest.pods import Document

_READY = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{REST_PORT}/v2/health/ready', timeout=3)"
DOCKER_IGNORE = "access\nREADME.md\nDockerfile\n.dockerignore\n*.yaml\n"


def dockerfile(exported: Exported) -> str:
    """An image whose server is no root, writes below ``run`` only, and knows no token: they are mounted at ``access``."""
    return f"""\
FROM docker.io/library/python:{exported.python}-slim
ENV PYTHONPATH={FOLDER} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR {FOLDER}
COPY {" ".join(exported.requirement_files)} ./
RUN pip install --no-cache-dir {installed(exported)} \\
 && mkdir -p run access \\
 && chown {USER}:{USER} run
COPY skyloom ./skyloom
COPY bundle ./bundle
COPY {PLAN_FILE} ./
USER {USER}:{USER}
EXPOSE {REST_PORT} {GRPC_PORT}
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "{_READY}"]
ENTRYPOINT ["python", "-m", "skyloom.inference", "{PLAN_FILE}"]
"""


def start_docker(exported: Exported) -> str:
    """For the page."""
    memory = f"{exported.resources.memory_bytes // 2**20}m"
    return f"""\
    {TOKENS}
    podman build -t {exported.image} .          # or buildah build, or docker build
    podman run --rm --read-only --tmpfs /tmp --tmpfs {FOLDER}/run:mode=1777 --cap-drop=ALL --security-opt=no-new-privileges \\
      --cpus {exported.cpus:g} --memory {memory} -v "$PWD/access:{FOLDER}/access:ro" -p 127.0.0.1:{REST_PORT}:{REST_PORT} {exported.image}

"""


def compose(exported: Exported) -> Document:
    """compose.yaml: one machine, ports on loopback only."""
    service = {
        "build": ".",
        "image": exported.image,
        "user": f"{USER}:{USER}",
        "read_only": True,
        "tmpfs": [f"{FOLDER}/run:uid={USER},gid={USER},mode=0700,size=16m", "/tmp"],  # noqa: S108
        "volumes": [f"./access:{FOLDER}/access:ro"],
        "ports": [f"127.0.0.1:{port}:{port}" for port in (REST_PORT, GRPC_PORT)],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "cpus": exported.cpus,
        "mem_limit": f"{exported.resources.memory_bytes // 2**20}m",
        "stop_grace_period": "15s",
        "restart": "unless-stopped",
    }
    return {"services": {exported.label: service}}


def start_compose(exported: Exported) -> str:
    """For the page."""
    return f"""\
    {TOKENS}
    docker compose up --build --detach          # or podman compose

The ports are open on this machine's loopback only; a proxy on the same machine reaches them.

"""
