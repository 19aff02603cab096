"""``skyloom status``."""

from skyloom.cli.frame import AsJson, cloud, word
from skyloom.cli.render import show

app = word("Show the cloud: address, capacity, what runs.")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the cloud: version, address, capacity, what runs, free disk."""
    with cloud() as client:
        show(client.overview.status(), as_json)
