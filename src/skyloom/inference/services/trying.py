"""A service in the foreground, as one replica on its own: the same process, limits and protocols as when it is deployed."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import uvloop

from skyloom.inference.ports import PortTaken, check_free
from skyloom.inference.server import serve
from skyloom.rooms.registry.bundle import MANIFEST_FILE
from skyloom.rooms.registry.services import Answering, ServiceMethod
from skyloom.rooms.serving.plan import Access, ServePlan
from skyloom.sdk.packing import Packed
from skyloom.settings import TaskEnvironment

_HOST = "127.0.0.1"
_EXAMPLES = {"str": '"text"', "int": "1", "float": "1.0", "bool": "true"}


def serve_here(
    folder: Path,
    packed: Packed,
    contents: Mapping[str, Path | bytes],
    *,
    port: int,
    cpus: float,
    token: str,
    say: Callable[[str], object],
) -> None:
    """Serve until SIGINT or SIGTERM. ``folder`` is empty and takes the bundle. Raises `PortTaken`, `ServiceUnfit`."""
    try:
        check_free(_HOST, port)
    except PortTaken as error:
        raise PortTaken(error.message, next_action="Choose another port: --port 0 takes a free one.") from None
    plan = _written(folder, packed, contents, port, cpus, token)
    words = _words(packed, token)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(plan, folder, TaskEnvironment.read({}), on_ready=lambda rest_port: say(words(rest_port))))


def _written(
    folder: Path, packed: Packed, contents: Mapping[str, Path | bytes], port: int, cpus: float, token: str
) -> ServePlan:
    for name, content in contents.items():
        place = folder / "bundle" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    (folder / "bundle" / MANIFEST_FILE).write_bytes(msgspec.json.encode(packed.manifest))
    digest = "sha256:" + hashlib.sha256(token.encode()).hexdigest()
    (folder / "access.json").write_bytes(msgspec.json.encode(Access(digests=(digest,))))
    return ServePlan(
        project="default",
        endpoint="ep_here",
        revision="rev_here",
        replica="rep_1",
        model=packed.name,
        model_version="1",
        bundle="bundle",
        access_file="access.json",
        log_folder="requests",
        port_folder="ports",
        rest_port=port,
        cpus=cpus,
    )


def _words(packed: Packed, token: str) -> Callable[[int], str]:
    spec = packed.manifest.service
    assert spec is not None
    method = spec.methods[0]

    def words(port: int) -> str:
        url = f"http://{_HOST}:{port}"
        lines = [f"{spec.class_name} answers at {url}. Its endpoints: {', '.join(one.name for one in spec.methods)}."]
        if spec.python is not None:
            lines.append("Its requirements are not installed by this command; they are when it is deployed.")
        flag = " -N" if method.answering is Answering.PARTS else ""
        lines += [
            "Try it:",
            f"  curl{flag} {url}/{method.name} -H 'Authorization: Bearer {token}' \\",
            f"    -H 'Content-Type: application/json' -d '{_example(method)}'",
            f"  curl {url}/openapi.json -H 'Authorization: Bearer {token}'",
            "Stop it with Ctrl-C.",
        ]
        return "\n".join(lines)

    return words


def _example(method: ServiceMethod) -> str:
    """Arguments of the right types, as far as they are plain."""
    needed = [one for one in method.parameters if one.required]
    return "{" + ", ".join(f'"{one.name}": {_EXAMPLES.get(one.annotation, "…")}' for one in needed) + "}"
