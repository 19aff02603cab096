"""The only reader of the environment. Each setting is one row: name, default, parser, help.

`Settings.read` is called once per process, at the top; everyone below receives values, never this object.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyloom.core.errors import InvalidInput
from skyloom.core.resources import parse_bytes


class InvalidSetting(InvalidInput):
    """A setting in the environment cannot be read."""


@dataclass(frozen=True)
class Setting:
    """One row of the table. The variable is ``SKYLOOM_`` and the name in capitals."""

    name: str
    default: Any
    parse: Callable[[str], Any]
    help: str

    @property
    def variable(self) -> str:
        return f"SKYLOOM_{self.name.upper()}"


def _flag(text: str) -> bool:
    if text.lower() not in {"0", "1", "true", "false", "yes", "no", "on", "off"}:
        raise ValueError("write 1 or 0")
    return text.lower() in {"1", "true", "yes", "on"}


def _price(text: str) -> float:
    price = float(text)
    if not (math.isfinite(price) and 0 <= price <= 1e6):
        raise ValueError("a price is a number of dollars from 0 up")
    return price


def _size(text: str) -> str:
    parse_bytes(text)  # raises ValueError
    return text


def _number(text: str) -> int:
    number = int(text)
    if not 0 < number <= 10_000_000:
        raise ValueError("it is a whole number from 1 to 10000000")
    return number


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days <= 36_500:
        raise ValueError("days are a number above 0, at most 36500")
    return days


def _full_days(text: str) -> float:
    if (days := _days(text)) < 1:
        raise ValueError("at least one day")
    return days


def _path(text: str) -> Path:
    return Path(text).expanduser()


SETTINGS = (
    Setting(
        "home",
        Path("~/.skyloom").expanduser(),
        _path,
        "Folder of an embedded cloud: database, blobs, tables, task output.",
    ),
    Setting(
        "host",
        "127.0.0.1",
        str,
        "Address the control plane and the model servers listen on. Loopback only in embedded mode.",
    ),
    Setting("port", 8470, int, "Port of the control plane. 0 takes a free one."),
    Setting("url", "", str, "Control plane a client talks to; empty means the embedded cloud in `home`."),
    Setting("project", "default", str, "Project a client works in."),
    Setting("token", "", str, "Token a client shows. Empty: `token_file`, else the embedded cloud's own."),
    Setting("token_file", "", str, "File that holds the token."),
    Setting(
        "warm_pool",
        True,
        _flag,
        "Keep a warm process with the training imports done, so that Python jobs start at once.",
    ),
    Setting("cpus", 0.0, float, "CPU cores the local engine may hand out; 0 means all of this machine."),
    Setting(
        "memory",
        "",
        str,
        "Memory the local engine may hand out, for example 8GiB; empty means all of this machine.",
    ),
    Setting("price_cpu_usd_per_hour", 0.04, _price, "Price of one CPU core for one hour."),
    Setting("price_gpu_usd_per_hour", 2.5, _price, "Price of one GPU for one hour."),
    Setting("price_memory_gib_usd_per_hour", 0.005, _price, "Price of one GiB of memory for one hour."),
    Setting(
        "environment_cache",
        "20GiB",
        _size,
        "Disk that built Python environments of jobs may take; the longest unused go first, never one in use.",
    ),
    Setting(
        "mount_cache",
        "50GiB",
        _size,
        "Disk that datasets and models which jobs mounted may take; the longest unused go first, never one in use.",
    ),
    Setting(
        "request_log_days", 30.0, _days, "Days that request logs are kept; a prediction older than that has expired."
    ),
    Setting("request_log_size", "10GiB", _size, "Disk that all request logs may take; the oldest go first."),
    Setting(
        "hook_days",
        7.0,
        _days,
        "How many days what callers sent to signed addresses of triggers is kept, if it was not delivered before.",
    ),
    Setting("hook_size", "64MiB", _size, "Disk that all of it may take; then calls are refused until there is room."),
    Setting(
        "answer_size",
        "256MiB",
        _size,
        "Disk that the arguments and answers of a project's ended calls of functions may take; the oldest make way.",
    ),
    Setting(
        "event_days",
        90.0,
        _full_days,
        "How many days the log of events is kept, at least 1; what waits longer to be delivered is passed over.",
    ),
    Setting(
        "audit_days", 400.0, _full_days, "How many days the audit log is kept, at least 1. Costs are kept for ever."
    ),
    Setting(
        "webhook_hosts",
        "",
        str,
        "Hosts, separated by commas, that webhooks may reach although their addresses are none of the public internet.",
    ),
    Setting(
        "device_history_days",
        90.0,
        _days,
        "How many days single predictions and samples that devices brought are kept; their sums are kept for ever.",
    ),
    Setting(
        "max_workers",
        100_000,
        _number,
        "Workers of jobs that wait or run, in one project; more are refused, and an array makes no more jobs until some have ended.",
    ),
    Setting("max_arrays", 10_000, _number, "Arrays of one project that have not ended; more are refused."),
    Setting("max_schedules", 10_000, _number, "Schedules of one project; more are refused."),
    Setting("crash_at", "", str, "Tests only: `before:K` or `after:K` kills the process at its K-th commit."),
)


class Settings:
    """The values of all settings, read once."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Read the environment. An override that is not None wins. Raises `InvalidSetting` naming the variable."""
        source = os.environ if environment is None else environment
        values = {}
        for setting in SETTINGS:
            override = overrides.pop(setting.name, None)
            values[setting.name] = override if override is not None else _value(setting, source)
        if overrides:
            raise TypeError(f"no such settings: {sorted(overrides)}")
        return cls(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None


def _value(setting: Setting, environment: Mapping[str, str]) -> Any:
    text = environment.get(setting.variable)
    if text is None or text == "":
        return setting.default
    try:
        return setting.parse(text)
    except ValueError as error:
        raise InvalidSetting(
            f"{setting.variable}={text!r} cannot be read: {error}.", next_action=f"It means: {setting.help}"
        ) from error


@dataclass(frozen=True)
class TaskEnvironment:
    """What a process inside a job is told about itself. Empty strings and zeros outside of a job.

    Attributes:
        task_id, job_id, project, run: ids; ``run`` is empty when the job is no training run.
        rank, world_size: place in the gang.
        shared_folder: folder that all ranks and all attempts of the job share.
        url, token: the control plane and this task's own token, which dies with the task.
        tables: folder of the tables of all datasets, as this machine sees it.
        mounts: folder of the datasets and models that the job mounts.
        training: JSON of the `TrainingPlan` of a training run.
        array_index, array_size: place in an array of jobs; 0 of 0 outside of one.
        array_offset: this job's place in its file of inputs.
        trial: JSON of the `TrialOrder` when only its first steps are tried, for a plan.
    """

    task_id: str
    job_id: str
    project: str
    run: str
    attempt: int
    rank: int
    world_size: int
    shared_folder: str
    task_folder: str
    url: str
    token: str
    training: str = ""
    array_index: int = 0
    array_size: int = 0
    array_offset: int = 0
    trial: str = ""
    tables: str = ""
    mounts: str = ""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "TaskEnvironment":
        """Read the variables that the engine set."""
        source = os.environ if environment is None else environment
        job_id = source.get("SKYLOOM_JOB_ID", "")
        token_file = source.get("SKYLOOM_TOKEN_FILE", "") if job_id else ""  # outside, that variable is a person's
        return cls(
            task_id=source.get("SKYLOOM_TASK_ID", ""),
            job_id=job_id,
            project=source.get("SKYLOOM_PROJECT", ""),
            run=source.get("SKYLOOM_RUN", ""),
            attempt=int(source.get("SKYLOOM_ATTEMPT", "1")),
            rank=int(source.get("RANK", "0")),
            world_size=int(source.get("WORLD_SIZE", "1")),
            shared_folder=source.get("SKYLOOM_SHARED_FOLDER", ""),
            task_folder=source.get("SKYLOOM_TASK_FOLDER", ""),
            url=source.get("SKYLOOM_URL", ""),
            token=Path(token_file).read_text().strip() if token_file else "",
            training=source.get("SKYLOOM_TRAINING", ""),
            array_index=int(source.get("SKYLOOM_ARRAY_INDEX", "0")),
            array_size=int(source.get("SKYLOOM_ARRAY_SIZE", "0")),
            array_offset=int(source.get("SKYLOOM_ARRAY_OFFSET", "0")),
            trial=source.get("SKYLOOM_TRIAL", ""),
            tables=source.get("SKYLOOM_TABLES", ""),
            mounts=source.get("SKYLOOM_MOUNTS", ""),
        )


# What an installer of packages is told by its environment: pip's names, and uv's for the same.
_PIP_AS_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_NO_INDEX": "UV_NO_INDEX",
    "PIP_CERT": "SSL_CERT_FILE",
}
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC")
# They would say where to install, or with which Python: that is ours to say.
_NOT_OURS = ("UV_PYTHON", "UV_SYSTEM", "UV_PROJECT", "UV_TARGET", "UV_PREFIX", "UV_BREAK", "UV_TOOL", "UV_PUBLISH")


def package_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What uv is told on this machine about indexes, caches and proxies: its own variables, then those of pip."""
    source = os.environ if environment is None else environment
    found = {
        name: value
        for name, value in source.items()
        if value and (name.upper() in _NETWORK or (name.startswith("UV_") and not name.startswith(_NOT_OURS)))
    }
    for theirs, ours in _PIP_AS_UV.items():
        value = source.get(theirs, "")
        if value and ours not in found:
            found[ours] = ",".join(value.split()) if ours == "UV_FIND_LINKS" else value
    return found


def trust_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which issuers of certificates this machine trusts beyond the usual ones."""
    source = os.environ if environment is None else environment
    return {name: source[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE") if source.get(name)}


def tokenless_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a process is started with that has no business with the control plane: all but the way to a token."""
    source = os.environ if environment is None else environment
    return {name: value for name, value in source.items() if name not in ("SKYLOOM_TOKEN", "SKYLOOM_TOKEN_FILE")}


def tell_libraries(**variables: str) -> None:
    """Set what libraries of this process, and of its children, read from the environment."""
    os.environ.update(variables)


def local_rank(environment: Mapping[str, str] | None = None) -> int:
    """This worker's place among the workers of its machine: which GPU is its own."""
    return int((os.environ if environment is None else environment).get("LOCAL_RANK", "0"))


def rendezvous(environment: Mapping[str, str] | None = None) -> tuple[str, int] | None:
    """Where rank 0 of this gang listens, as torchrun names it; None when this process is in no gang."""
    source = os.environ if environment is None else environment
    address, port = source.get("MASTER_ADDR", ""), source.get("MASTER_PORT", "")
    return (address, int(port)) if address and port else None
