"""Words on the command line that mean traffic: shares of revisions, header rules, shadows, canaries."""

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec
import typer

from skyloom.cli.values import UnreadableOption, duration_s, numbers
from skyloom.rooms.serving.split import CanaryPlan

Hold = Annotated[
    bool, typer.Option("--hold", help="Give the new revision no traffic yet; see: skyloom endpoint route.")
]
Canary = Annotated[
    str | None,
    typer.Option(
        "--canary",
        metavar="PERCENTS",
        help="Give it the traffic by steps, and take it back when it is worse: 1,10,50.",
        show_default=False,
    ),
]
Step = Annotated[str, typer.Option("--step", help="How long a canary's step takes at least.")]
Shadow = Annotated[
    bool, typer.Option("--shadow", help="Begin the canary with copies of requests, whose answers nobody gets.")
]
MinRequests = Annotated[
    int, typer.Option("--min-requests", min=0, help="Requests that a canary must answer in a step.")
]
MaxErrorRate = Annotated[
    float | None,
    typer.Option("--max-error-rate", min=0, max=1, help="Of a canary's answers, 0 to 1.", show_default=False),
]
MaxP99 = Annotated[str | None, typer.Option("--max-p99", help="Of a canary's latency: 50ms, 0.2s.", show_default=False)]
MaxP99Ratio = Annotated[
    float, typer.Option("--max-p99-ratio", min=1, help="A canary's p99, in times the stable revision's.")
]

MinLabels = Annotated[
    int, typer.Option("--min-labels", min=0, help="Rows of a canary that must have a label before it goes on.")
]
MaxWrong = Annotated[
    float | None,
    typer.Option("--max-wrong", min=0, max=1, help="Of a canary's rows with a label, 0 to 1.", show_default=False),
]


def shares(words: Iterable[str]) -> dict[int, float]:
    """Read ``3=90`` words: revision and weight. Raises `UnreadableOption`."""
    return _by_revision(words, "--share", "3=90", 1_000_000.0)


def shadows(words: Iterable[str]) -> dict[int, float]:
    """Read ``5=0.1`` words: revision and part of all requests. Raises `UnreadableOption`."""
    return _by_revision(words, "--shadow", "5=0.1", 1.0)


def headers(words: Iterable[str]) -> list[tuple[str, str, int]]:
    """Read ``x-team=beta:4`` words: header, value, revision. Raises `UnreadableOption`."""
    found = []
    for word in words:
        match = re.fullmatch(r"([A-Za-z0-9-]{1,60})=([ -~]{1,200}):(\d{1,9})", word)
        if match is None:
            raise UnreadableOption(
                f"--header {word!r} is no header, value and revision.", next_action="Write --header x-team=beta:4."
            )
        found.append((match[1].lower(), match[2], int(match[3])))
    return found


def seconds(text: str, option: str) -> float:
    """Read ``50ms`` or ``0.2s``. Raises `UnreadableOption`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)ms", text.strip().lower())
    found = float(match[1]) / 1e3 if match else duration_s(text)
    if found <= 0:
        raise UnreadableOption(f"{option} {text!r} is no time.", next_action=f"Write {option} 50ms.")
    return found


def canary_plan(
    steps: str,
    step: str,
    shadow: bool,
    min_requests: int,
    max_error_rate: float | None,
    max_p99: str | None,
    max_p99_ratio: float,
    min_labels: int = 0,
    max_wrong: float | None = None,
) -> CanaryPlan | None:
    """Read a canary's options; None where no ``steps`` are given. Raises `UnreadableOption`."""
    if not steps:
        return None
    plan = CanaryPlan(
        steps=numbers(steps, "--canary"),
        step_s=duration_s(step),
        shadow=shadow,
        min_requests=min_requests,
        max_error_rate=max_error_rate,
        max_p99_s=None if max_p99 is None else seconds(max_p99, "--max-p99"),
        max_p99_ratio=max_p99_ratio,
        min_labels=min_labels,
        max_wrong_rate=max_wrong,
    )
    try:
        return msgspec.convert(msgspec.to_builtins(plan), CanaryPlan)
    except msgspec.ValidationError as error:
        raise UnreadableOption(
            f"The canary cannot be meant: {error}.", next_action="Write --canary 1,10,50 --step 60s."
        ) from error


def _by_revision(words: Iterable[str], option: str, example: str, most: float) -> dict[int, float]:
    found: dict[int, float] = {}
    for word in words:
        match = re.fullmatch(r"(\d{1,9})=(\d+(?:\.\d+)?)%?", word)
        if match is None or int(match[1]) < 1 or float(match[2]) > most or int(match[1]) in found:
            raise UnreadableOption(f"{option} {word!r} cannot be read.", next_action=f"Write {option} {example}.")
        found[int(match[1])] = float(match[2])
    return found
