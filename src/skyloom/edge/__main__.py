"""``python -m skyloom.edge``: join a cloud, run, look. Imports what it needs when it needs it: the keeper stays small."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from skyloom.core.errors import Category, InvalidInput, SkyloomError
from skyloom.core.exit_codes import EXIT_CODES

Number = TypeVar("Number", int, float)
_HOME = "~/.skyloom-edge"


class EdgeUsage(InvalidInput):
    """An option of the command cannot be meant."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    if not words:
        parser.print_help()
        return 2
    try:
        told = parser.parse_args(words)
        return int(told.run(told))
    except SkyloomError as error:
        print(f"error {error.code}: {error.message}\nnext: {error.next_action}", file=sys.stderr)
        return EXIT_CODES[error.category]
    except KeyboardInterrupt:
        return 130


def alone(arguments: Sequence[str] | None = None) -> int:
    """``skyloom`` where nothing of the terminal is installed: it knows one word."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["edge"]:
        return main(words[1:])
    print(
        "error terminal_missing: Here is a device only: skyloom edge.\nnext: For all other words: pip install skyloom",
        file=sys.stderr,
    )
    return EXIT_CODES[Category.INVALID]


def _join(told: argparse.Namespace) -> int:
    from skyloom.edge.home import Home

    authority = str(Path(told.ca).expanduser().absolute()) if told.ca else ""
    file = Home(told.home).join(told.code, told.url, authority=authority, proxy=told.proxy, again=told.again)
    if file.url.startswith("http:") and not _is_here(file.url):
        print("note: without TLS everybody in between can read what passes, the token too", file=sys.stderr)
    home = "" if told.home == Path(_HOME).expanduser() else f" --home {told.home}"
    print(f"joined {file.url} as {file.name} ({file.device})\nnext: {_called()} run{home}")
    return 0


def _called() -> str:
    """What it was called by: where nothing of the terminal is installed, that is ``skyloom-edge``."""
    return "skyloom-edge" if Path(sys.argv[0]).name == "skyloom-edge" else "skyloom edge"


def _is_here(url: str) -> bool:
    from urllib.parse import urlsplit

    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _run(told: argparse.Namespace) -> int:
    from skyloom.edge.home import Home
    from skyloom.edge.keeper import keep, listen, ports_of

    home = Home(told.home)
    home.read()
    home.hold()  # before anything is written: of two that begin at once, one only makes the token
    home.make()
    try:
        listeners = [listen(told.port)]
        if told.grpc_port >= 0:
            listeners.append(listen(told.grpc_port))
    except OSError as error:
        raise EdgeUsage(f"The port cannot be used: {error.strerror}.", next_action="Choose another --port.") from error
    ports = ports_of(listeners)
    home.write_ports(ports)
    grpc = f", gRPC 127.0.0.1:{ports[1]}" if len(ports) > 1 else ""
    print(f"REST http://127.0.0.1:{ports[0]}{grpc}; programs here show the token in {home.token_file}", flush=True)

    def serve() -> int:
        from skyloom.edge import serving

        options = serving.EdgeOptions(
            interval_s=told.interval,
            longest_pause_s=told.longest_pause,
            outbox_bytes=told.outbox * 2**20,
            sample_share=told.sample,
            threads=told.threads,
        )
        return serving.serve(home, listeners, options)

    return keep(serve)


def _status(told: argparse.Namespace) -> int:
    from skyloom.edge.home import Home
    from skyloom.edge.looking import status_of

    print(status_of(Home(told.home), as_json=told.json))
    return 0


def _try(told: argparse.Namespace) -> int:
    from skyloom.edge.station import smoke

    smoke(told.bundle, told.manifest)
    return 0


def _slim(told: argparse.Namespace) -> int:
    from skyloom.edge.slim import slim

    print(slim(really=told.yes))
    return 0


class _Help(argparse.HelpFormatter):
    """Help that looks like the other words'."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, "Usage: " if prefix is None else prefix)


class _Parser(argparse.ArgumentParser):
    """A parser whose refusals are two lines, as all of ours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})

    def error(self, message: str) -> NoReturn:
        raise EdgeUsage(f"{message[:1].upper()}{message[1:]}.", next_action=f"See: {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_called(),
        description="A model on a small device: serves it offline, reports when it can.",
    )
    words = parser.add_subparsers(required=True, metavar="WORD")
    home = _Parser(add_help=False)
    home.add_argument(
        "--home",
        type=lambda text: Path(text).expanduser().absolute(),
        default=_HOME,
        help=f"folder of the device [{_HOME}]",
    )
    join = words.add_parser("join", parents=[home], help="become a device of a cloud, with a code")
    join.add_argument("code", metavar="CODE", help="what `skyloom device enrol NAME` shows")
    join.add_argument("--url", required=True, help="address of the cloud")
    join.add_argument("--ca", default="", metavar="FILE", help="certificates to trust instead of the system's")
    join.add_argument("--proxy", default="", metavar="URL", help="what calls go through: http://HOST:PORT")
    join.add_argument("--again", action="store_true", help="join anew; what was not told yet stays")
    join.set_defaults(run=_join)
    run = words.add_parser("run", parents=[home], help="serve, and call the cloud now and then")
    run.add_argument(
        "--port", type=_number(0, 65_535, int), default=8471, help="of REST, on this machine only [8471]; 0: any"
    )
    run.add_argument(
        "--grpc-port",
        type=_number(-1, 65_535, int),
        default=None,
        help="of gRPC; -1: none [8472 where its libraries are]",
    )
    run.add_argument("--interval", type=_number(0.1, 86_400, float), default=30.0, help="seconds between calls [30]")
    run.add_argument(
        "--longest-pause",
        type=_number(0.1, 86_400, float),
        default=900.0,
        help="seconds between calls at most, however long nobody has answered [900]",
    )
    run.add_argument("--outbox", type=_number(1, 2**20, int), default=64, help="MiB that wait at most [64]")
    run.add_argument("--sample", type=_number(0, 1, float), default=0.0, help="share of inputs to send along [0: none]")
    run.add_argument("--threads", type=_number(1, 256, int), default=1, help="of one inference [1]")
    run.set_defaults(run=_run_with_grpc)
    status = words.add_parser("status", parents=[home], help="show what is served and what waits")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(run=_status)
    slim = words.add_parser("slim", help="show what installed packages never use here, and with --yes delete it")
    slim.add_argument("--yes", action="store_true", help="delete")
    slim.set_defaults(run=_slim)
    test = words.add_parser("try", help="load a bundle and run it once; exit code 0 when it can be served")
    test.add_argument("bundle", type=Path)
    test.add_argument("manifest", nargs="?", default="", help="digest that its manifest must have")
    test.set_defaults(run=_try)
    return parser


def _run_with_grpc(told: argparse.Namespace) -> int:
    """gRPC needs libraries that are larger than all the rest; where they are not, there is none, unless it was asked for."""
    import importlib.util

    there = all(importlib.util.find_spec(name) for name in ("hpack", "google", "grpc_health", "grpc_reflection"))
    if told.grpc_port is None:
        told.grpc_port = 8472 if there and told.port else 0 if there else -1
    elif told.grpc_port >= 0 and not there:
        raise EdgeUsage(
            "gRPC needs libraries that are not installed here.",
            next_action="pip install grpcio-health-checking grpcio-reflection hpack, or leave --grpc-port out.",
        )
    return _run(told)


def _number(least: float, most: float, kind: Callable[[str], Number]) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    read.__name__ = "number"
    return read


if __name__ == "__main__":
    raise SystemExit(main())
