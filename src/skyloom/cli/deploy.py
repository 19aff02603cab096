"""``skyloom deploy``."""

from typing import Annotated

import typer

from skyloom.cli import traffic, values
from skyloom.cli.frame import AsJson, Project, cloud, word
from skyloom.cli.render import show
from skyloom.rooms.serving.model import EndpointStatus

app = word("Serve a model.")


@app.command()
def deploy(
    model: Annotated[
        str, typer.Argument(metavar="MODEL[:VERSION]", help="Version: a number or an alias; else the newest.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the endpoint.  [default: MODEL]", show_default=False)
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", "-r", min=1, help="How many processes answer.", show_default=False)
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", min=0, help="CPU cores for each.", show_default=False)] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Memory for each.", show_default=False)] = None,
    hold: traffic.Hold = False,
    canary: traffic.Canary = None,
    step: traffic.Step = "60s",
    shadow: traffic.Shadow = False,
    min_requests: traffic.MinRequests = 50,
    max_error_rate: traffic.MaxErrorRate = None,
    max_p99: traffic.MaxP99 = None,
    max_p99_ratio: traffic.MaxP99Ratio = 2.0,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return at once; do not wait until it answers.")
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait for it.")] = "2min",
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model version, or give a living endpoint a new revision.

    What is left out stays as it is; a new endpoint has 1 replica with half a core, 512 MiB and room for the model. The replicas of a
    new revision answer before the old ones stop. A canary is decided by itself: see it with skyloom endpoint show.
    """
    model_name, _, version = model.partition(":")
    plan = traffic.canary_plan(
        canary or ("1,10,50" if shadow else ""),
        step=step,
        shadow=shadow,
        min_requests=min_requests,
        max_error_rate=max_error_rate,
        max_p99=max_p99,
        max_p99_ratio=max_p99_ratio,
    )
    with cloud(project) as client:
        status = client.endpoints.deploy(
            model_name,
            version,
            name=name,
            num_replicas=replicas,
            cpus=cpus,
            memory=None if memory is None else values.size(memory),
            hold=hold,
            canary=plan,
        )
        if not detach:
            said: list[str] = []

            def watch(seen: EndpointStatus) -> None:
                if seen.message and seen.message not in said:
                    said.append(seen.message)
                    typer.echo(seen.message, err=True)

            status = client.endpoints.wait(status.endpoint.name, timeout_s=values.duration_s(timeout), watch=watch)
        show(status, as_json)
