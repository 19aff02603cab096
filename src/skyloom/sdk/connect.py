"""Finding the cloud: by address, from inside of a job, or the embedded one on this machine."""

from pathlib import Path

from skyloom.core.errors import Unavailable
from skyloom.sdk.client import Client
from skyloom.sdk.http import HttpTransport
from skyloom.sdk.running import running
from skyloom.settings import Settings, TaskEnvironment


class NoCloud(Unavailable):
    """No cloud runs on this machine, and no address of another was given."""


def connect(url: str | None = None, *, token: str | None = None, project: str | None = None) -> Client:
    """Return a client of a cloud.

    Without arguments: inside of a job its own cloud, else ``SKYLOOM_URL``, else the embedded cloud of ``SKYLOOM_HOME``, whose token is
    picked up from its folder. Raises `NoCloud`; the first call on the client raises what is wrong with the address or the token.
    """
    task = TaskEnvironment.read()
    if task.job_id and url is None:  # SKYLOOM_URL alone may be a person's
        return Client(HttpTransport(task.url, task.token, project or task.project, patience_s=300, wait_for_space=True))
    settings = Settings.read(url=url, token=token, project=project)
    secret = settings.token or _read(settings.token_file)
    if settings.url:
        return Client(HttpTransport(settings.url, secret, settings.project))
    server = running(settings.home)
    if server is None:
        raise NoCloud(
            f"No cloud runs in {settings.home}.",
            next_action="Start one with: skyloom up --detach. Or set SKYLOOM_URL to use another.",
        )
    return Client(HttpTransport(server.url, secret or _read(str(settings.home / "token")), settings.project))


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip() if path else ""
    except OSError:
        return ""
