"""Template files: what ``skyloom apply -f`` reads. Strict: what is unknown is refused, with its line.

    name: nightly
    jobs:
      prepare: {script: prepare.py, include: [settings.toml], cpus: 2}
      sweep:   {command: [python, -m, sweep], size: 100, max_parallel: 10, after: [prepare], secrets: [db-password]}
      report:  {script: report.py, after: {sweep: ended}}
    schedules:
      tidy:    {command: [./tidy.sh], cron: "@daily", time_zone: Europe/Berlin}

Paths are those beside the file. Secrets are named and never written into a template.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from skyloom.core.errors import SkyloomError
from skyloom.core.resources import parse_bytes
from skyloom.rooms.jobs.model import Condition, JobSpec
from skyloom.rooms.schedules.model import Missed, Overlap
from skyloom.rooms.templates.model import PlanTemplate, TemplateJob, TemplateSchedule
from skyloom.sdk.files import below, read_chunks
from skyloom.sdk.specs import job_spec
from skyloom.sdk.transport import Transport
from skyloom.sdk.yaml_nodes import MAX_BYTES, YamlPlace, YamlUnreadable, read_yaml

S = TypeVar("S", bound=msgspec.Struct)
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}


def read_template(path: Path, transport: Transport) -> PlanTemplate:
    """Read a template and upload the files that it takes along. Raises `YamlUnreadable`, `LocalFileMissing`."""
    content = b""
    for chunk in read_chunks(path):
        content += chunk
        if len(content) > MAX_BYTES:
            raise YamlUnreadable(f"{path} has more than {MAX_BYTES:,} bytes.", next_action="Make it smaller.")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise YamlUnreadable(f"{path} is no text: {error}.", next_action="Save it as UTF-8.") from None
    root = read_yaml(text, str(path))
    parts = root.fields(frozenset({"name", "jobs", "schedules"}), frozenset({"name"}))
    reader = _Reader(transport, path.absolute().parent)
    jobs = parts["jobs"].fields() if "jobs" in parts else {}
    schedules = parts["schedules"].fields() if "schedules" in parts else {}
    if not jobs and not schedules:
        raise root.wrong("describes nothing", "Add jobs: or schedules:.")
    return _checked(
        root,
        PlanTemplate,
        {
            "name": parts["name"].text(),
            "jobs": {name: reader.job(place) for name, place in jobs.items()},
            "schedules": {name: reader.schedule(place) for name, place in schedules.items()},
        },
    )


class _Reader:
    """Reads jobs and schedules of one file, whose folder is where its paths begin."""

    def __init__(self, transport: Transport, folder: Path) -> None:
        self._transport = transport
        self._folder = folder

    def job(self, place: YamlPlace) -> TemplateJob:
        known = frozenset({*_SPEC, *_WORK, "after", "size", "max_parallel"})
        fields = place.fields(known)
        asked: dict[str, Any] = {"spec": self._spec(place, fields)}
        for name in ("size", "max_parallel"):
            if name in fields:
                asked[name] = fields[name].number(int)
                if name == "size" and not asked[name]:
                    raise fields[name].wrong("has to be 1 or more")
        if "after" in fields:
            asked["after"] = _conditions(fields["after"])
        return _checked(place, TemplateJob, asked)

    def schedule(self, place: YamlPlace) -> TemplateSchedule:
        own = frozenset({"cron", "time_zone", "missed", "overlap"})
        fields = place.fields(frozenset({*_SPEC, *_WORK}) | own, frozenset({"cron"}))
        asked = {name: fields[name].text() for name in own & fields.keys()}
        for name, kind in (("missed", Missed), ("overlap", Overlap)):
            if name in asked and asked[name] not in set(kind):
                raise fields[name].wrong(f"has to be one of: {', '.join(kind)}")
        return _checked(place, TemplateSchedule, {**asked, "spec": self._spec(place, fields)})

    def _spec(self, place: YamlPlace, fields: Mapping[str, YamlPlace]) -> JobSpec:
        if ("command" in fields) == ("script" in fields):
            raise place.wrong(
                "needs either a command or a script", "Write command: [program, argument] or script: FILE.py."
            )
        options: dict[str, Any] = {_SPEC[name][0]: _SPEC[name][1](one) for name, one in fields.items() if name in _SPEC}
        if "command" in fields:
            options["command"] = _texts(fields["command"])
            if "args" in fields:
                raise fields["args"].wrong("goes with a script", "Write the arguments into the command.")
        else:
            options |= {"script": self._folder / fields["script"].text(), "args": _texts(fields.get("args"))}
        if "requirements" in fields:
            one = fields["requirements"]
            options["requirements"] = _texts(one) if one.is_list else self._folder / one.text()
        options["include"] = self._include(fields.get("include"))
        try:
            return job_spec(self._transport, **options)
        except (msgspec.ValidationError, ValueError) as error:
            raise place.wrong(f"cannot be meant: {error}") from None
        except SkyloomError as error:
            raise place.wrong(f"cannot be read: {error.message.rstrip('.')}", error.next_action) from error

    def _include(self, place: YamlPlace | None) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for item in place.items() if place else ():
            name = item.text()
            path = self._folder / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise item.wrong("has to be below the folder of the file")
            if path.is_dir():
                prefix = "" if name in (".", "./") else f"{Path(name).as_posix()}/"
                found |= {f"{prefix}{inner}": file for inner, file in below(path, ("**/*",)).items()}
            else:
                found[Path(name).as_posix()] = path
        return found


def _texts(place: YamlPlace | None) -> list[str]:
    return [item.text() for item in place.items()] if place else []


def _pairs(place: YamlPlace) -> dict[str, str]:
    return {name: value.text() for name, value in place.fields().items()}


def _secrets(place: YamlPlace) -> list[str] | dict[str, str]:
    return _texts(place) if place.is_list else _pairs(place)


def _conditions(place: YamlPlace) -> dict[str, Condition]:
    if place.is_list:
        return dict.fromkeys(_texts(place), Condition.SUCCEEDED)
    found = {}
    for name, value in place.fields().items():
        if value.text() not in set(Condition):
            raise value.wrong(f"has to be one of: {', '.join(Condition)}")
        found[name] = Condition(value.text())
    return found


def _size(place: YamlPlace) -> str:
    try:
        parse_bytes(place.text())
    except ValueError as error:
        raise place.wrong(f"is no size: {error}") from None
    return place.text()


def _duration_s(place: YamlPlace) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h|d)?", place.text())
    if match is None:
        raise place.wrong(f"is no duration: {place.text()!r}", "Write a number and a unit: 90s, 15min, 2h or 1d.")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _checked(place: YamlPlace, kind: type[S], fields: Mapping[str, Any]) -> S:
    """Make the noun, with every bound that it has."""
    try:
        return msgspec.convert(msgspec.to_builtins(kind(**fields)), kind)
    except (msgspec.ValidationError, TypeError) as error:
        raise place.wrong(f"cannot be meant: {error}") from None


_WORK = frozenset({"command", "script", "args", "include", "requirements"})
_SPEC: Mapping[str, tuple[str, Callable[[YamlPlace], Any]]] = {
    "workers": ("num_workers", lambda place: place.number(int)),
    "cpus": ("cpus", lambda place: place.number(float)),
    "gpus": ("gpus", lambda place: place.number(int)),
    "memory": ("memory", _size),
    "retries": ("max_retries", lambda place: place.number(int)),
    "max_duration": ("max_duration_s", _duration_s),
    "grace": ("grace_s", _duration_s),
    "priority": ("priority", lambda place: place.number(int)),
    "budget_usd": ("budget_usd", lambda place: place.number(float)),
    "environment": ("environment", _pairs),
    "labels": ("labels", _pairs),
    "secrets": ("secrets", _secrets),
    "isolated": ("isolated", lambda place: place.flag()),
}
