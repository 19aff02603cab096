"""``skyloom rollout``."""

import sys
from typing import Annotated

import typer

from skyloom.cli.device_views import bar_of
from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import show
from skyloom.cli.values import duration_s, labels, shares
from skyloom.cli.wording import safe
from skyloom.rooms.devices.rollout import RolloutState, RolloutStatus

app = words("Roll-outs: a model version goes to devices, some first, and back if they do not fare well.")
RolloutId = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its id.")]


@app.command()
def create(
    model: Annotated[
        str, typer.Argument(metavar="MODEL[@VERSION]", help="A version's number or alias; else the newest.")
    ],
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="NAME=VALUE", help="Devices with this label; repeat. [default: all]"),
    ] = None,
    stages: Annotated[str, typer.Option("--stages", help="Percent of the devices, growing to 100.")] = "10,50,100",
    pause: Annotated[str, typer.Option("--pause", help="How long a stage has to stay healthy.")] = "10min",
    probation: Annotated[str, typer.Option("--probation", help="How long it has to hold on one device.")] = "30s",
    patience: Annotated[
        str, typer.Option("--patience", help="A device that calls and says nothing of it for so long has failed.")
    ] = "1h",
    min_healthy: Annotated[
        float,
        typer.Option("--min-healthy", min=0, max=1, help="Share of devices that must be healthy, or it goes back."),
    ] = 0.95,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it is done or has gone back (exit code 1).")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Bring a model version to devices: `skyloom rollout create digits@3 --to site=a --stages 10,50,100 --pause 10min`."""
    name, _, version = model.partition("@")
    with cloud(project) as client:
        status = client.rollouts.create(
            name,
            version,
            labels=labels(to or (), "--to"),
            stages=shares(stages, "--stages"),
            pause_s=duration_s(pause),
            min_healthy=min_healthy,
            probation_s=duration_s(probation),
            patience_s=duration_s(patience),
        )
        if wait:
            status = client.rollouts.wait(status.rollout.id, watch=_Shown())
        show(status, as_json)
    if wait and status.rollout.state is not RolloutState.DONE:
        raise typer.Exit(1)


@app.command("list")
def list_(limit: Limit = 50, cursor: Cursor = None, project: Project = None, as_json: AsJson = False) -> None:
    """List roll-outs, newest first."""
    with cloud(project) as client:
        show(client.rollouts.list(limit, cursor), as_json)


@app.command("status")
def status_(
    rollout: RolloutId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until it is done or has gone back.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show a roll-out and how far it is."""
    with cloud(project) as client:
        show(client.rollouts.wait(rollout, watch=_Shown()) if follow else client.rollouts.get(rollout), as_json)


@app.command()
def pause(rollout: RolloutId, project: Project = None, as_json: AsJson = False) -> None:
    """Give it to no more devices for now."""
    with cloud(project) as client:
        show(client.rollouts.pause(rollout), as_json)


@app.command()
def resume(rollout: RolloutId, project: Project = None, as_json: AsJson = False) -> None:
    """Go on after a pause."""
    with cloud(project) as client:
        show(client.rollouts.resume(rollout), as_json)


@app.command()
def abort(rollout: RolloutId, project: Project = None, as_json: AsJson = False) -> None:
    """Stop it; its devices go back to what they served before."""
    with cloud(project) as client:
        show(client.rollouts.abort(rollout), as_json)


class _Shown:
    """Says on stderr how far a roll-out is: one line that changes on a terminal, else one for each change."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, status: RolloutStatus) -> None:
        line = f"{status.rollout.state.value:12} {status.share:3}%  {bar_of(status)}  {safe(status.rollout.message)}".rstrip()
        if line == self._last:
            return
        tty = sys.stderr.isatty()
        sys.stderr.write(f"\r\x1b[K{line}" if tty else f"{line}\n")
        if tty and status.rollout.state in (RolloutState.DONE, RolloutState.ROLLED_BACK):
            sys.stderr.write("\n")
        sys.stderr.flush()
        self._last = line
