"""``skyloom serve``: one service in the foreground, to try it. No registry; the cloud is asked only for models that it names."""

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from skyloom.cli.frame import Project, cloud, word
from skyloom.sdk.packing import load_service, pack

app = word("Try a service of your own Python on this machine.")


@app.command()
def serve(
    service: Annotated[str, typer.Argument(metavar="FILE.py[:CLASS]", help="CLASS may be left out if it is alone.")],
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65_535, help="0 takes a free one.")] = 8000,
    cpus: Annotated[float, typer.Option("--cpus", min=0.1, help="Cores for models beside it.")] = 1.0,
    project: Project = None,
) -> None:
    """Run a service here, in this Python, until Ctrl-C. Deploy it with: skyloom deploy FILE.py:CLASS.

    Its packages must be installed here; its `requirements` count when it is deployed. Models that it names are taken from the cloud.
    """
    from skyloom.inference.services.trying import serve_here  # only this word pays for a server

    kind, _ = load_service(service)
    if kind.models:
        with cloud(project) as client:
            packed = client.services.pack(kind)
            contents = client.services.fetch(packed)
    else:
        packed = pack(kind)
        contents = dict(packed.contents)
    folder = Path(tempfile.mkdtemp(prefix="skyloom-serve-"))
    try:
        serve_here(folder, packed, contents, port=port, cpus=cpus, token=secrets.token_urlsafe(12), say=typer.echo)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
