"""``skyloom pool``: the machines that jobs run on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from skyloom.cli import values
from skyloom.cli.confirming import confirm
from skyloom.cli.frame import AsJson, Limit, cloud, words
from skyloom.cli.render import progress, show
from skyloom.cli.wording import human, safe
from skyloom.core.resources import Resources, parse_bytes
from skyloom.ports.engine import PoolTokenRefused
from skyloom.rooms.cost.prices import Tenure
from skyloom.rooms.pools.model import GrowthGroup, PoolState, PoolStatus
from skyloom.rooms.pools.rules import check_gone
from skyloom.sdk.files import NotAFile, read_chunks

app = words("Pools: this machine, and clusters added to it.")
Name = Annotated[str, typer.Argument(metavar="POOL")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, '-'.")],
    address: Annotated[str, typer.Argument(metavar="ray://HOST:PORT")],
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the token that the pool wants to be shown.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="What its machines are known by; repeat.")
    ] = None,
    url: Annotated[str, typer.Option("--url", help="Where its machines reach this control plane.")] = "",
    shared_folder: Annotated[
        str,
        typer.Option(
            "--shared-folder", help="Folder that all its machines share; without one a gang stays on one machine."
        ),
    ] = "",
    grows: Annotated[
        list[str] | None,
        typer.Option(
            "--grows",
            metavar="cpus=8,memory=32GiB,gpus=1,max=4",
            help="Machines that its autoscaler may get it; repeat.",
        ),
    ] = None,
    cpu_price: Annotated[float | None, typer.Option("--cpu-price", min=0, help="$ for a core and hour.")] = None,
    gpu_price: Annotated[float | None, typer.Option("--gpu-price", min=0, help="$ for a GPU and hour.")] = None,
    memory_price: Annotated[float | None, typer.Option("--memory-price", min=0, help="$ for a GiB and hour.")] = None,
    tenure: Annotated[Tenure, typer.Option("--tenure", help="How its machines are paid for.")] = Tenure.ON_DEMAND,
    as_json: AsJson = False,
) -> None:
    """Add a cluster; it is reached first. Jobs are placed on it from then on."""
    token = _token(token_file) if token_file else ""
    prices = {"cpu": cpu_price, "gpu": gpu_price, "memory_gib": memory_price}
    given = {f"{key}_usd_per_hour": price for key, price in prices.items() if price is not None}
    if tenure is not Tenure.ON_DEMAND and not given:
        raise values.UnreadableOption(
            "--tenure says how prices are meant, and there are none.",
            next_action="Give --cpu-price and the others too.",
        )
    groups = [_group(text) for text in grows or ()]
    labels = values.variables(label or (), "--label")
    with cloud() as client:
        with progress(f"Reaching {address}; this may take half a minute", quiet=as_json), _naming(token_file):
            made = client.pools.add(
                name,
                address,
                token=token,
                labels=labels,
                advertised_url=url,
                shared_folder=shared_folder,
                grows=groups,
            )
        if given:
            client.prices.set(name, tenure=tenure, **given)
        show(made, as_json)


@app.command("list")
def list_(limit: Limit = 100, as_json: AsJson = False) -> None:
    """List pools with their machines, and what is used of them."""
    with cloud() as client:
        show(client.pools.list(limit), as_json)


@app.command("show")
def show_(pool: Name, as_json: AsJson = False) -> None:
    """Show a pool and its machines."""
    with cloud() as client:
        show(client.pools.get(pool), as_json)


@app.command()
def remove(
    pool: Name,
    gone: Annotated[bool, typer.Option("--gone", help="It is gone for good: give up what ran there as lost.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a pool. Refused while jobs run there; its machines go on.

    With --gone, of a pool that does not answer any more: its tasks end as node_lost, and jobs with retries begin again elsewhere.
    """
    with cloud() as client:
        if gone and not yes:
            _confirm_loss(client.pools.get(pool))
        show(client.pools.remove(pool, gone=gone), as_json)


def _confirm_loss(status: PoolStatus) -> None:
    """Say what is lost with a pool that does not answer, and ask. What is not to be given up needs no asking: it is refused."""
    if status.state is PoolState.UP:
        check_gone(status.pool.name, None)
    if status.num_tasks:
        print(
            f"{status.pool.name} is down: {safe(status.message)} Last heard of: {human('heard_at', status.heard_at)}",
            file=sys.stderr,
        )
        tasks = f"{status.num_tasks} task{'s' if status.num_tasks > 1 else ''}"
        confirm(
            f"{tasks} there would be given up as lost",
            next_action="Add --yes to do that. Should the pool still run, it cannot be told from here to stop them.",
        )


@contextmanager
def _naming(token_file: Path | None) -> Iterator[None]:
    """The control plane was told what is in the file, and not its name."""
    try:
        yield
    except PoolTokenRefused as refusal:
        raise PoolTokenRefused(
            refusal.message,
            next_action=f"Put the token that the cluster was started with (RAY_AUTH_TOKEN_PATH) into {token_file}, then add it again.",
        ) from refusal


def _group(text: str) -> GrowthGroup:
    """Read ``cpus=8,memory=32GiB,gpus=1,max=4``. Raises `UnreadableOption`."""
    hint = "Write --grows cpus=8,memory=32GiB,gpus=1,max=4: what one machine has, and how many there may be."
    needed, others = ("cpus", "memory"), ("gpus", "max")
    given = values.machine_words("--grows", text, "a machine", needed, others, hint, values.UnreadableOption)
    try:
        group = GrowthGroup(
            resources=Resources(
                cpus=float(given["cpus"]),
                gpus=int(given.get("gpus", "0")),
                memory_bytes=parse_bytes(given["memory"]),
            ),
            most=int(given.get("max", "1")),
        )
        return msgspec.convert(msgspec.to_builtins(group), GrowthGroup)  # its bounds
    except (ValueError, OverflowError) as error:
        raise values.UnreadableOption(f"--grows {text!r} cannot be read: {error}.", next_action=hint) from None


def _token(file: Path) -> str:
    try:
        return b"".join(read_chunks(file)).decode().strip()
    except UnicodeDecodeError:
        raise NotAFile(f"{file} is no text.", next_action="Name the file that holds the token.") from None
