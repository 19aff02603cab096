"""``skyloom endpoint``."""

from pathlib import Path
from typing import Annotated

import typer

from skyloom.cli import quality_page, sampling_options, traffic
from skyloom.cli.frame import AsJson, Cursor, Limit, Project, cloud, words
from skyloom.cli.render import say_written, show
from skyloom.cli.values import duration_s

app = words("Endpoints: models under an address.")
Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name or id.")]


@app.command("list")
def list_(
    live: Annotated[bool, typer.Option("--live", help="Only those that were not stopped.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """List endpoints, newest first."""
    with cloud(project) as client:
        show(client.endpoints.list(limit, cursor, live), as_json)


@app.command("show")
def show_(endpoint: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Show an endpoint, its revisions and its replicas."""
    with cloud(project) as client:
        show(client.endpoints.get(endpoint), as_json)


@app.command()
def stop(endpoint: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Stop an endpoint: its replicas finish what they have. Deploying to its name brings it back."""
    with cloud(project) as client:
        show(client.endpoints.stop(endpoint), as_json)


@app.command()
def pack(
    endpoint: Name,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL[:VERSION]...", help="Registered models to serve beside its own."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="MODEL", help="Serve it no more; repeat.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="What a replica may have in memory of them: 2GiB. At first half of its own."),
    ] = None,
    max_loaded: Annotated[
        int | None, typer.Option("--max-loaded", min=1, max=256, help="So many at once; at first 32.")
    ] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Serve more models at an endpoint, under their names. A replica loads one when it is asked for, and none starts anew."""
    with cloud(project) as client:
        status = client.endpoints.pack(
            endpoint, *(models or ()), remove=remove or (), memory=memory, max_loaded=max_loaded
        )
        show(status, as_json)


@app.command()
def route(
    endpoint: Name,
    share: Annotated[
        list[str], typer.Option("--share", metavar="REVISION=WEIGHT", help="A revision's part of the traffic; repeat.")
    ],
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE:REVISION", help="Such requests go to this revision; repeat."),
    ] = None,
    sticky: Annotated[
        str, typer.Option("--sticky", metavar="HEADER", help="The same value of it, the same revision.")
    ] = "",
    shadow: Annotated[
        list[str] | None,
        typer.Option("--shadow", metavar="REVISION=PART", help="Send it a copy of this part of all requests; repeat."),
    ] = None,
    keep: Annotated[
        str, typer.Option("--keep", help="How long what loses its traffic is kept ready for a rollback.")
    ] = "10min",
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Split an endpoint's traffic over its revisions. It holds as soon as their replicas answer."""
    with cloud(project) as client:
        status = client.endpoints.route(
            endpoint,
            traffic.shares(share),
            headers=traffic.headers(header or ()),
            sticky_header=sticky.lower(),
            shadows=traffic.shadows(shadow or ()),
            keep_s=duration_s(keep),
        )
        show(status, as_json)


@app.command()
def rollback(endpoint: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Go back to the revision that had all the traffic before. Ends a canary."""
    with cloud(project) as client:
        show(client.endpoints.rollback(endpoint), as_json)


@app.command()
def promote(endpoint: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Give the canary all the traffic now."""
    with cloud(project) as client:
        show(client.endpoints.promote(endpoint), as_json)


@app.command()
def abort(endpoint: Name, project: Project = None, as_json: AsJson = False) -> None:
    """End the canary; its traffic goes back to the stable revision."""
    with cloud(project) as client:
        show(client.endpoints.abort(endpoint), as_json)


@app.command()
def compare(endpoint: Name, project: Project = None, as_json: AsJson = False) -> None:
    """Compare the revisions that share the traffic. Side by side: errors, latency, and what is proven of their difference."""
    with cloud(project) as client:
        show(client.endpoints.compare(endpoint), as_json)


@app.command("log")
def log_(
    endpoint: Name,
    to: sampling_options.To = "",
    sample: sampling_options.Sample = 0.1,
    uncertain_below: sampling_options.UncertainBelow = None,
    of_class: sampling_options.OfClass = None,
    drop: sampling_options.Drop = None,
    hash_: sampling_options.Hash = None,
    mask: sampling_options.Mask = None,
    every: sampling_options.Every = "1h",
    keep: sampling_options.Keep = "30d",
    max_rows: sampling_options.MaxRows = 1_000_000,
    now: sampling_options.Now = False,
    off: sampling_options.Off = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Keep some of its requests and answers as rows of a dataset. Columns are dropped, hashed or masked before anything is written.

    Without --to: show what is kept and how far that has come. --now takes what waits into the dataset, --off keeps no more.
    """
    sampling_options.check_alone(to, now, off)
    with cloud(project) as client:
        if to:
            sampling = sampling_options.sampling(sample, uncertain_below, of_class, drop, hash_, mask)
            keep_days = duration_s(keep) / 86_400
            status = client.endpoints.log_to(
                endpoint, to, sampling, every_s=duration_s(every), keep_days=keep_days, max_rows=max_rows
            )
        elif off:
            status = client.endpoints.log_off(endpoint)
        else:
            status = client.endpoints.collect(endpoint) if now else client.endpoints.sampling(endpoint)
        show(status, as_json)


@app.command()
def quality(
    endpoint: Name,
    window: Annotated[
        str, typer.Option("--window", help="How far back, up to 90d, by the time of the answers.")
    ] = "7d",
    page: Annotated[
        Path | None, typer.Option("--page", help="Draw it as a web page: quality.html.", show_default=False)
    ] = None,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show how good its answers are. By revision and over time, as far as somebody said what was true (skyloom feedback)."""
    if page is not None:
        quality_page.check_page(page)
    with cloud(project) as client:
        report = client.endpoints.quality(endpoint, duration_s(window))
    show(report, as_json)
    if page is not None:
        quality_page.write_page(report, page)
        say_written("page", page)


@app.command()
def monitor(
    endpoint: Name,
    window: Annotated[str, typer.Option("--window", help="How far back, up to 15min: 90s, 5min.")] = "60s",
    num_features: Annotated[int, typer.Option("--features", min=1, max=1_000, help="How many at most.")] = 20,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Show its rate, errors, latency, open alerts and drift. Drift is how far live traffic has moved from training, feature by feature."""
    with cloud(project) as client:
        show(client.endpoints.monitor(endpoint, duration_s(window), num_features), as_json)
