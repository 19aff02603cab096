"""``skyloom audit``: what was changed, by whom."""

from skyloom.cli.frame import AsJson, Limit, Project, cloud, word
from skyloom.cli.render import show

app = word("The newest entries of the audit log.")


@app.command()
def audit(limit: Limit = 50, project: Project = None, as_json: AsJson = False) -> None:
    """Show the newest changes and refusals of a project. They are kept for SKYLOOM_AUDIT_DAYS (400)."""
    with cloud(project) as client:
        show(client.audit.list(limit), as_json)
