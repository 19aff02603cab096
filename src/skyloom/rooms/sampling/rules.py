"""Pure decisions of sampling: what may be redacted, which bytes are new, and the job that takes them."""

from collections.abc import Iterable, Mapping

from skyloom.core.resources import Resources
from skyloom.ports.engine import PythonModule
from skyloom.rooms.data.making import Collect, SampleRange
from skyloom.rooms.jobs.model import JobSpec
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.sampling.model import SampleLog, SamplingUnclear
from skyloom.rooms.serving.samples import RequestSampling

PROGRAM = "skyloom.recipes.collect"
_RESOURCES = Resources(cpus=1, memory_bytes=2 * 2**30)
_RETRIES = 2
_SHOWN = 20
Samples = Mapping[str, tuple[int, int]]
"""Replica → where its samples begin that are there, and where their last whole line ends."""
Source = tuple[int, str]
"""Number of a revision, and the digest of its manifest."""


def check(sampling: RequestSampling, columns: tuple[str, ...]) -> None:
    """Raise `SamplingUnclear` for columns that no row has, or that are redacted in two ways."""
    if not columns:
        raise SamplingUnclear(
            "The bodies of a service of your own Python are not rows, so none can be kept.",
            next_action="Write what you want to keep from inside of the service.",
        )
    redacted = (*sampling.drop, *sampling.hash, *sampling.mask)
    for name in redacted:
        if name not in columns:
            raise SamplingUnclear(
                f"A row has no column {name!r}.",
                next_action=f"It has: {', '.join(columns[:_SHOWN])}{' …' if len(columns) > _SHOWN else ''}.",
            )
        if redacted.count(name) > 1:
            raise SamplingUnclear(f"Column {name!r} is redacted in two ways.", next_action="Drop, hash or mask it.")


def new_ranges(samples: Samples, taken: Mapping[str, int], sources: Mapping[str, Source]) -> tuple[SampleRange, ...]:
    """What is there and was not taken. A replica that nobody knows is left alone."""
    found = []
    for replica, (first, end) in sorted(samples.items()):
        start = max(first, taken.get(replica, 0))
        if end > start and replica in sources:
            number, digest = sources[replica]
            made = SampleRange(replica=replica, start=start, stop=end, revision=number, model_version=digest)
            found.append(made)
    return tuple(found)


def taken_after(samples: Samples, taken: Mapping[str, int], ranges: Iterable[SampleRange]) -> dict[str, int]:
    """How far each replica's samples are taken once these are; of those that have any left on disk."""
    stops = {one.replica: one.stop for one in ranges}
    known = {replica: stops.get(replica, taken.get(replica, 0)) for replica in samples}
    return {replica: stop for replica, stop in known.items() if stop}


def making(log: SampleLog, ranges: tuple[SampleRange, ...], taken: dict[str, int], now: float) -> Collect:
    """What a draft is told."""
    return Collect(
        endpoint=log.id,
        name=log.endpoint_name,
        ranges=ranges,
        taken=taken,
        oldest_at=max(0.0, now - log.keep_days * 86_400.0),
        max_rows=log.max_rows,
    )


def job(log: SampleLog, draft_id: str, folder: str) -> JobSpec:
    """The job that takes samples into the dataset."""
    return JobSpec(
        name=f"collect requests of {log.endpoint_name}",
        entry=PythonModule(module=PROGRAM, args=("--draft", draft_id, "--samples", folder)),
        resources=_RESOURCES,
        max_retries=_RETRIES,
        labels={"dataset": log.dataset, "endpoint": log.id},
        pools=(LOCAL,),  # where samples and tables are
    )
