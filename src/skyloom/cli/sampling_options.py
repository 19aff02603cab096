"""Words on the command line that say which requests are kept, and what of them."""

from collections.abc import Iterable
from typing import Annotated

import msgspec
import typer

from skyloom.cli.values import UnreadableOption
from skyloom.rooms.serving.samples import Pattern, RequestSampling

To = Annotated[str, typer.Option("--to", metavar="DATASET", help="Where rows go.", show_default=False)]
Sample = Annotated[float, typer.Option("--sample", min=0, max=1, help="The share of rows that is kept, 0 to 1.")]
UncertainBelow = Annotated[
    float | None,
    typer.Option("--uncertain-below", min=0, max=1, help="Keep all rows of less confidence.", show_default=False),
]
OfClass = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="CLASS=SHARE", help="Another share for rows that are said to be this; repeat."),
]
Drop = Annotated[list[str] | None, typer.Option("--drop", metavar="A,B", help="Columns that are not kept.")]
Hash = Annotated[list[str] | None, typer.Option("--hash", metavar="A,B", help="Columns kept as a keyed hash only.")]
Mask = Annotated[
    list[str] | None,
    typer.Option(
        "--mask",
        metavar="COLUMN[=PATTERNS]",
        help="Cross out in texts: email, number, ip, link; all of them if none is named. Repeat.",
    ),
]
Every = Annotated[str, typer.Option("--every", help="How often rows are taken into the dataset.")]
Keep = Annotated[str, typer.Option("--keep", help="Newer versions leave out older rows.")]
MaxRows = Annotated[int, typer.Option("--max-rows", min=1, help="Rows of a version; of more, the oldest go.")]
Now = Annotated[bool, typer.Option("--now", help="Take what waits into the dataset now.")]
Off = Annotated[bool, typer.Option("--off", help="Keep no more.")]


def check_alone(to: str, now: bool, off: bool) -> None:
    """Raise `UnreadableOption` for words that cannot stand together."""
    if bool(to) + now + off > 1:
        raise UnreadableOption("--to, --now and --off do not go together.", next_action="Give one of them.")


def sampling(
    share: float,
    uncertain_below: float | None,
    of_class: Iterable[str] | None,
    drop: Iterable[str] | None,
    hashed: Iterable[str] | None,
    mask: Iterable[str] | None,
) -> RequestSampling:
    """Read the options. Raises `UnreadableOption`."""
    told = {
        "share": share,
        "uncertain_below": uncertain_below,
        "by_class": dict(_share(word) for word in of_class or ()),
        "drop": _names(drop),
        "hash": _names(hashed),
        "mask": dict(_patterns(word) for word in mask or ()),
    }
    try:
        return msgspec.convert(told, RequestSampling)
    except msgspec.ValidationError as error:
        raise UnreadableOption(
            f"The sampling cannot be meant: {error}.",
            next_action="skyloom endpoint log ENDPOINT --to DATASET --sample 0.1 --drop name --hash user --mask text=email",
        ) from error


def _names(words: Iterable[str] | None) -> list[str]:
    return [name for word in words or () for name in word.split(",") if name]


def _share(word: str) -> tuple[str, float]:
    name, _, share = word.rpartition("=")
    try:
        return name, float(share)
    except ValueError:
        raise UnreadableOption(f"--class {word!r} cannot be read.", next_action="Write --class dog=0.5.") from None


def _patterns(word: str) -> tuple[str, list[str]]:
    name, has_some, patterns = word.partition("=")
    return name, patterns.split(",") if has_some else [pattern.value for pattern in Pattern]
