"""What every store of measurements promises. A subclass provides the fixture ``series``."""

import math
import threading

import pytest

from skyloom.ports.series import Point, Series


def point(name: str, step: int, value: float | None) -> Point:
    return Point(name, step, 1_700_000_000.0 + step, value)


class SeriesContract:
    def test_points_come_back_in_the_order_they_came(self, series: Series) -> None:
        first = [point("loss", 1, 0.5), point("accuracy", 1, 0.7)]
        second = [point("loss", 2, 0.25)]
        assert series.append("run_1", "rank-0", 1, first)
        assert series.append("run_1", "rank-0", 2, second)
        assert series.points("run_1") == first + second
        assert series.points("run_1", "loss") == [first[0], second[0]]

    def test_batch_sent_again_is_dropped(self, series: Series) -> None:
        assert series.append("run_1", "rank-0", 1, [point("loss", 1, 0.5)])
        assert not series.append("run_1", "rank-0", 1, [point("loss", 1, 0.5)])
        assert series.append("run_1", "rank-1", 1, [point("loss", 1, 0.6)])
        assert [found.value for found in series.points("run_1")] == [0.5, 0.6]

    def test_sequence_numbers_of_two_tracks_do_not_meet(self, series: Series) -> None:
        assert series.append("run_1", "rank-0", 1, [point("loss", 1, 0.5)])
        assert series.append("run_2", "rank-0", 1, [point("loss", 1, 0.9)])
        assert series.points("run_2") == [point("loss", 1, 0.9)]

    def test_latest_goes_by_step_and_then_by_arrival(self, series: Series) -> None:
        series.append("run_1", "a", 1, [point("loss", 5, 0.5), point("loss", 3, 0.3), point("loss", 5, 0.55)])
        series.append("run_1", "a", 2, [point("rate", 1, 10.0)])
        assert series.latest("run_1") == {"loss": point("loss", 5, 0.55), "rate": point("rate", 1, 10.0)}

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
    def test_value_that_is_no_number_is_none(self, series: Series, value: float | None) -> None:
        series.append("run_1", "a", 1, [point("loss", 1, value)])
        assert series.points("run_1")[0].value is None
        assert series.latest("run_1")["loss"].value is None

    def test_unknown_track_is_empty(self, series: Series) -> None:
        assert series.points("run_nobody") == []
        assert series.latest("run_nobody") == {}

    def test_after_step_and_limit_cut(self, series: Series) -> None:
        series.append("run_1", "a", 1, [point("loss", step, float(step)) for step in range(50)])
        series.append("run_1", "a", 2, [point("loss", step, float(step)) for step in range(50, 100)])
        found = series.points("run_1", "loss", after_step=39, limit=20)
        assert [entry.step for entry in found] == list(range(40, 60))

    def test_names_in_any_script_survive(self, series: Series) -> None:
        series.append("run_1", "a", 1, [point("потеря/训练", 1, 1.5)])
        assert series.latest("run_1")["потеря/训练"].value == 1.5

    def test_appends_from_many_threads_lose_nothing(self, series: Series) -> None:
        def send(source: str) -> None:
            for sequence in range(1, 21):
                series.append("run_1", source, sequence, [point(source, sequence, float(sequence))])

        senders = [threading.Thread(target=send, args=(f"rank-{rank}",)) for rank in range(6)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert len(series.points("run_1")) == 120
        assert all(len(series.points("run_1", f"rank-{rank}")) == 20 for rank in range(6))
