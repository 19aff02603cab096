"""``skyloom device``."""

from typing import Annotated

import typer

from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.cli.values import duration_s, labels
from skyloom.rooms.devices.model import DeviceState

app = words("Devices: small machines that serve a model far from here.")
Name = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name or id.")]
Label = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="What roll-outs choose it by; repeat it.")
]


@app.command()
def enrol(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    label: Label = None,
    ttl: Annotated[str, typer.Option("--ttl", help="How long the code is good: 15min, 2h; a day at most.")] = "15min",
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Let a device in: shows a code that it joins with, once. For one that is there already: it may join anew."""
    told = labels(label, "--label") if label else None
    with cloud(project) as client:
        show(client.devices.enrol(name, told, ttl_s=duration_s(ttl)), as_json)


@app.command("list")
def list_(
    label: Annotated[str, typer.Option("--label", metavar="NAME=VALUE", help="Only devices with this label.")] = "",
    state: Annotated[DeviceState | None, typer.Option("--state", help="Only devices that are in it now.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List devices, newest first."""
    with cloud(project) as client:
        show(client.devices.list(limit, cursor, label=label, state=state), as_json)


@app.command("show")
def show_(device: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Show a device: what it serves, what it should serve, what it said last."""
    with cloud(project) as client:
        show(client.devices.get(device), as_json)


@app.command()
def retire(device: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Let a device call no more: it was lost, stolen or thrown away. What it serves it goes on serving."""
    with cloud(project) as client:
        show(client.devices.retire(device), as_json)


@app.command()
def samples(
    device: Name,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="How many chunks at most.")] = 10,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show inputs that a device sampled; it samples only where `skyloom edge run --sample` says how much."""
    with cloud(project) as client:
        show(client.devices.samples(device, limit, cursor), as_json)


@app.command()
def gather(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the dataset to make.")],
    model: Annotated[str, typer.Option("--model", help="The model whose inputs they are.")],
    label: Annotated[
        list[str] | None, typer.Option("--from", metavar="NAME=VALUE", help="Devices with this label; repeat it.")
    ] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Make a dataset of what devices sampled and is in none yet. See what becomes of it: `skyloom data show DATASET`."""
    with cloud(project) as client:
        show(client.devices.gather(dataset, model, labels(label or (), "--from")), as_json)


@app.command("rotate-key")
def rotate_key(
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old key is good: 7d.")] = "7d",
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Sign what devices serve with a new key from now on."""
    with cloud(project) as client:
        show(client.devices.rotate_key(overlap_s=duration_s(overlap)), as_json)
