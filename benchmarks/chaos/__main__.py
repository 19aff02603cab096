"""``python -m benchmarks.chaos CAMPAIGN``: real processes are hurt while real requests come, and what was promised is checked.

python -m benchmarks.chaos replicas                 replicas killed every 10 s at 100 requests/s for 5 minutes, on both paths
python -m benchmarks.chaos rollback                 bad versions as canaries under load: rolled back within a minute
python -m benchmarks.chaos burst                    asleep → 50 × → asleep: how fast the first answer, how often it changes its mind
python -m benchmarks.chaos soak --minutes 10        mixed traffic and deployments: memory and files of all processes stay flat
python -m benchmarks.chaos all --quick              everything short

Each ends by itself, prints a table, writes it with ``--json FILE``, and exits with 1 when a promise is broken.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from benchmarks.bench import machine
from benchmarks.chaos import burst, replicas, rollback, soak
from benchmarks.chaos.report import Campaign, Finding, table


def main() -> int:
    """Run what was asked for; 1 when a promise is broken."""
    asked = _asked()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is taken down then, too
    print(machine(), flush=True)
    done = []
    for name in list(CAMPAIGNS) if asked.campaign == "all" else [asked.campaign]:
        began = time.monotonic()
        found = []
        for finding in CAMPAIGNS[name](asked):
            found.append(finding)
        done.append(Campaign(name=name, took_s=time.monotonic() - began, findings=tuple(found)))
        print(table(done[-1]), flush=True)
    if asked.json:
        told = {"machine": machine(), "measured_at": time.time(), "campaigns": done}
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
    broken = [f"{campaign.name}: {finding.what}" for campaign in done for finding in campaign.broken]
    print("promises broken: " + ("; ".join(broken) or "none"))
    return 1 if broken else 0


def _replicas(asked: argparse.Namespace) -> Iterator[Finding]:
    duration_s = asked.seconds or (20.0 if asked.quick else 300.0)
    every_s = asked.every or (4.0 if asked.quick else 10.0)
    gateway_every_s = duration_s / 2 if asked.quick else 60.0
    return replicas.run(duration_s, asked.rate or 100.0, every_s, gateway_every_s, asked.gateways, asked.seed)


def _rollback(asked: argparse.Namespace) -> Iterator[Finding]:
    return rollback.run(asked.rate or 50.0)


def _burst(asked: argparse.Namespace) -> Iterator[Finding]:
    return burst.run(asked.seconds or (15.0 if asked.quick else 60.0), asked.rate or 4.0, 1 if asked.quick else 3)


def _soak(asked: argparse.Namespace) -> Iterator[Finding]:
    minutes = asked.hours * 60 or asked.minutes or (1.0 if asked.quick else 10.0)
    return soak.run(minutes * 60, asked.rate or 60.0)


CAMPAIGNS: dict[str, Callable[[argparse.Namespace], Iterator[Finding]]] = {
    "replicas": _replicas,
    "rollback": _rollback,
    "burst": _burst,
    "soak": _soak,
}


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaign", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("--quick", action="store_true", help="at most about a minute each")
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s; of a burst, before it")
    parser.add_argument("--seconds", type=float, default=0.0, help="of replicas (each path) and of a burst")
    parser.add_argument("--every", type=float, default=0.0, help="seconds from one killed replica to the next")
    parser.add_argument("--minutes", type=float, default=0.0, help="of a soak")
    parser.add_argument("--hours", type=float, default=0.0, help="of a soak")
    parser.add_argument("--gateways", type=int, default=2, help="of replicas: 1 has nobody beside it when it is killed")
    parser.add_argument("--seed", type=int, default=1, help="who is killed")
    parser.add_argument("--json", type=Path, help="also write what was found to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
