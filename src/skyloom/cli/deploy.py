"""``skyloom deploy``."""

from typing import Annotated, Any

import typer

from skyloom.cli import ready_to_paste, traffic, values
from skyloom.cli import scaling_options as asked
from skyloom.cli.awaiting import awaited
from skyloom.cli.frame import AsJson, Project, Secret, cloud, word
from skyloom.cli.panels import panelled
from skyloom.cli.render import say_how, show
from skyloom.core.resources import parse_bytes
from skyloom.rooms.serving.model import EndpointStatus
from skyloom.rooms.serving.offer import CacheRule, LaneRule
from skyloom.sdk.client import Client

app = word("Serve a model.")
Served = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[:VERSION]|FILE.py[:CLASS]",
        help="A registered model (VERSION: a number or an alias; else the newest), or a service of your own Python.",
    ),
]
EndpointName = Annotated[
    str | None, typer.Option("--name", help="Of the endpoint.  [default: MODEL]", show_default=False)
]
Replicas = Annotated[
    int | None, typer.Option("--replicas", "-r", min=1, help="So many processes answer.", show_default=False)
]
Cpus = Annotated[float | None, typer.Option("--cpus", min=0, help="CPU cores for each.", show_default=False)]
Memory = Annotated[str | None, typer.Option("--memory", help="Memory for each: 2GiB.", show_default=False)]
PictureUrls = Annotated[
    bool | None,
    typer.Option("--picture-urls/--no-picture-urls", help="Fetch pictures that requests name by http addresses."),
]
CacheSize = Annotated[
    str | None,
    typer.Option(
        "--cache", help="Keep so much of what was answered, and give it again: 64MiB; 0B ends that.", show_default=False
    ),
]
CacheTtl = Annotated[str, typer.Option("--cache-ttl", help="How long an answer is good.")]
Urgent = Annotated[
    list[str] | None,
    typer.Option("--urgent", metavar="TOKEN", help="Tokens that may say priority 1, by name; * for all. Repeat it."),
]
Gateways = Annotated[
    int | None,
    typer.Option(
        "--gateways", min=1, max=4, help="Where it needs a gateway: processes that share its ports.", show_default=False
    ),
]
Detached = Annotated[bool, typer.Option("--detach", "-d", help="Return at once; do not wait until it answers.")]
Timeout = Annotated[str, typer.Option("--timeout", help="How long to wait for it.")]


PANELS = {
    "What runs": "name replicas cpus memory secret picture_urls",
    "Replicas that follow the load (in place of --replicas)": (
        "min_replicas max_replicas scale_on target zero_after window up_delay down_delay floor foresight"
    ),
    "A new revision that has to prove itself": (
        "canary step shadow min_requests max_error_rate max_p99 max_p99_ratio min_labels max_wrong hold"
    ),
    "Beyond answering in turn": "cache cache_ttl urgent gateways",
    "This command": "detach timeout project as_json help",
}
EXAMPLES = """
\b
Examples:
  skyloom deploy toy --name shop --replicas 2
  skyloom deploy toy --max-replicas 4 --scale-on concurrency --target 8
  skyloom deploy toy --min-replicas 0 --max-replicas 4
  skyloom deploy toy:7 --canary 1,10,50 --max-p99 50ms
  skyloom deploy service.py --secret API_KEY
"""


@app.command(cls=panelled(PANELS), epilog=EXAMPLES)
def deploy(
    model: Served,
    name: EndpointName = None,
    replicas: Replicas = None,
    cpus: Cpus = None,
    memory: Memory = None,
    hold: traffic.Hold = False,
    canary: traffic.Canary = None,
    step: traffic.Step = "60s",
    shadow: traffic.Shadow = False,
    min_requests: traffic.MinRequests = 50,
    max_error_rate: traffic.MaxErrorRate = None,
    max_p99: traffic.MaxP99 = None,
    max_p99_ratio: traffic.MaxP99Ratio = 2.0,
    min_labels: traffic.MinLabels = 0,
    max_wrong: traffic.MaxWrong = None,
    min_replicas: asked.MinReplicas = None,
    max_replicas: asked.MaxReplicas = None,
    scale_on: asked.ScaleOn = None,
    target: asked.Target = None,
    window: asked.Window = None,
    up_delay: asked.UpDelay = None,
    down_delay: asked.DownDelay = None,
    zero_after: asked.ZeroAfter = None,
    floor: asked.FloorWords = None,
    foresight: asked.ForesightDays = None,
    picture_urls: PictureUrls = None,
    cache: CacheSize = None,
    cache_ttl: CacheTtl = "60s",
    urgent: Urgent = None,
    gateways: Gateways = None,
    secret: Secret = None,
    detach: Detached = False,
    timeout: Timeout = "2min",
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model version or a service (`skyloom.Service`), or give a living endpoint a new revision.

    What is left out stays as it is; a new endpoint has 1 replica with half a core, 512 MiB and room for the model. The replicas of a
    new revision answer before the old ones stop. With --max-replicas (or another word of scaling) their number follows the load;
    --replicas alone ends that. A canary is decided by itself: see it with skyloom endpoint show.
    """
    steps = canary or ("1,10,50" if shadow else "")
    plan = traffic.canary_plan(
        steps, step, shadow, min_requests, max_error_rate, max_p99, max_p99_ratio, min_labels, max_wrong
    )
    size: dict[str, Any] = {"min_replicas": min_replicas, "max_replicas": max_replicas}
    signal: dict[str, Any] = {"scale_on": scale_on, "target": target, "window": window, "foresight": foresight}
    waits: dict[str, Any] = {"up_delay": up_delay, "down_delay": down_delay, "zero_after": zero_after}
    told = asked.told(**size, **signal, **waits, floors=floor)
    options: dict[str, Any] = {
        "num_replicas": replicas,
        "cpus": cpus,
        "memory": None if memory is None else values.size(memory),
        "num_gateways": gateways,
        "hold": hold,
    }
    options |= {"canary": plan, **_offer(cache, cache_ttl, urgent, secret)}
    with cloud(project) as client:
        status = _deployed(client, model, name, told, options, picture_urls)
        if not detach:
            status = awaited(client, status.endpoint.name, values.duration_s(timeout))
        show(status, as_json)
        if not (detach or as_json):
            say_how(ready_to_paste.ask_endpoint(client, status))


def _deployed(
    client: Client,
    what: str,
    name: str | None,
    scaling: dict[str, Any],
    options: dict[str, Any],
    picture_urls: bool | None,
) -> EndpointStatus:
    model, _, version = what.partition(":")
    is_service = model.endswith(".py")
    if scaling:
        endpoint = name or (client.services.pack(what).name if is_service else model)
        options = {**options, "scaling": asked.scaling_of(client, endpoint, scaling)}
    if is_service:
        if picture_urls is not None:
            raise typer.BadParameter("A service reads its own pictures.", param_hint="--picture-urls")
        return client.services.deploy(what, name, **options)
    return client.endpoints.deploy(model, version, name=name, picture_urls=picture_urls, **options)


def _offer(cache: str | None, cache_ttl: str, urgent: list[str] | None, secret: list[str] | None) -> dict[str, Any]:
    """What is offered beyond answering in turn, and what a service is given; None keeps what it is."""
    kept = None
    if cache is not None:
        kept = CacheRule(size_bytes=parse_bytes(values.size(cache)), ttl_s=values.duration_s(cache_ttl))
    lanes = None if urgent is None else LaneRule(urgent=tuple(urgent))
    return {"cache": kept, "lanes": lanes, "secrets": None if secret is None else values.secrets(secret)}
