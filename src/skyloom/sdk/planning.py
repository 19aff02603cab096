"""Plans from Python; and forecasts from one's own measurements, which need no cloud."""

from collections.abc import Sequence
from pathlib import Path

from skyloom.core.resources import Resources
from skyloom.curves.scipy import ScipyCurves
from skyloom.rooms.cost.model import PriceBook
from skyloom.rooms.cost.rules import worth
from skyloom.rooms.planning import checking, rules
from skyloom.rooms.planning.model import Aim, Forecast, Measurement, MeasurementsUnusable
from skyloom.sdk.files import read_chunks
from skyloom.settings import Settings


def forecast(measurements: Sequence[Measurement], aim: Aim) -> Forecast:
    """Time and cost for each number of workers, and the one to choose; computed here.

    Raises `MeasurementsUnusable`, `AimUnclear`, `AimImpossible`, and `Unavailable` where scipy is not installed.
    """
    return rules.forecast(measurements, aim, ScipyCurves())


def measurements_in(path: Path) -> tuple[Measurement, ...]:
    """Read a CSV file with the columns workers, data_fraction, seconds. Raises `MeasurementsUnusable`, `LocalFileMissing`."""
    try:
        return checking.read_csv(b"".join(read_chunks(path)).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MeasurementsUnusable(f"{path} is no UTF-8 text.", next_action="Save it as CSV in UTF-8.") from error


def worker_price(resources: Resources) -> float:
    """What a worker costs in an hour by the prices that this machine's settings have, in USD."""
    settings = Settings.read()
    prices = PriceBook(
        cpu_usd_per_hour=settings.price_cpu_usd_per_hour,
        gpu_usd_per_hour=settings.price_gpu_usd_per_hour,
        memory_gib_usd_per_hour=settings.price_memory_gib_usd_per_hour,
    )
    return worth(resources, 3600, prices).usd
