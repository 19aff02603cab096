"""Finding the cloud: by address, from inside of a job, or the embedded one on this machine."""

from pathlib import Path

from skyloom.core.errors import InvalidInput, Unavailable
from skyloom.core.events import TriggerEvent
from skyloom.sdk.acting import present_event
from skyloom.sdk.client import Client
from skyloom.sdk.http import HttpTransport
from skyloom.sdk.running import running
from skyloom.settings import Settings, TaskEnvironment


class NoCloud(Unavailable):
    """No cloud runs on this machine, and no address of another was given."""


class TokenUnreadable(InvalidInput):
    """The file that was named for the token holds none that can be read."""


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    project: str | None = None,
    because: TriggerEvent | str | None = None,
) -> Client:
    """Return a client of a cloud.

    Without arguments: inside of a job its own cloud, else ``SKYLOOM_URL``, else the embedded cloud of ``SKYLOOM_HOME``, whose token is
    picked up from its folder. Raises `NoCloud`, `TokenUnreadable`; the first call on the client raises what is wrong with the address or
    the token.

    Args:
        token: speaks instead of the job's own, or of the one that was picked up.
        because: the event that made a function act. What it begins then counts as the event's consequence, so that a trigger that
            sets itself off is noticed. A function that was called with an event says so by itself, but for threads of its own.
    """
    cause = because.cause if isinstance(because, TriggerEvent) else because or present_event()
    task = TaskEnvironment.read()
    if task.job_id and url is None:  # SKYLOOM_URL alone may be a person's
        secret, home = token or task.token, project or task.project
        return Client(HttpTransport(task.url, secret, home, patience_s=300, wait_for_space=True, because=cause))
    settings = Settings.read(url=url, token=token, project=project)
    secret = settings.token or (_named_token(Path(settings.token_file)) if settings.token_file else "")
    if settings.url:
        return Client(HttpTransport(settings.url, secret, settings.project, because=cause))
    server = running(settings.home)
    if server is None:
        raise NoCloud(
            f"No cloud runs in {settings.home}.",
            next_action="Start one with: skyloom up --detach. Or set SKYLOOM_URL to use another.",
        )
    secret = secret or _own_token(settings.home / "token")
    return Client(HttpTransport(server.url, secret, settings.project, because=cause))


def _named_token(path: Path) -> str:
    """The token in a file that a person named; never another one in its place."""
    try:
        token = path.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise TokenUnreadable(
            f"The token file {path} cannot be read: {why}.",
            next_action="Correct SKYLOOM_TOKEN_FILE, or unset it to go as the owner of the embedded cloud.",
        ) from error
    if not token:
        raise TokenUnreadable(
            f"The token file {path} is empty.", next_action="Put the token into it: skyloom token create shows one."
        )
    return token


def _own_token(path: Path) -> str:
    """The embedded cloud's own; without it the cloud itself refuses."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
