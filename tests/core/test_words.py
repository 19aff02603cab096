import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core import bounds, digests, errors, ids
from skyloom.core.money import Money, hours, price, short, usd
from skyloom.core.resources import NOTHING, Resources, parse_bytes, show_bytes
from skyloom.core.states import Moves
from skyloom.rooms.jobs.model import MOVES, TaskState
from skyloom.settings import SETTINGS, InvalidSetting, Settings, TaskEnvironment


def test_ids_sort_by_the_time_they_were_made() -> None:
    made = [ids.RandomIds().new("job") for _ in range(50)]
    stamps = [ids.made_at(item) for item in made]
    assert stamps == sorted(stamps) and len(set(made)) == 50
    assert ids.CountingIds().new("a") == "a_" + "0" * 25 + "1"


def test_made_at_no_id_raises() -> None:
    with pytest.raises(ValueError, match="not an id"):
        ids.made_at("job_1")


@given(st.integers(0, 2**62))
def test_show_bytes_never_fails(count: int) -> None:
    assert show_bytes(count).split()[1] in {"B", "KiB", "MiB", "GiB", "TiB"}


@pytest.mark.parametrize(
    ("text", "count"), [("1000", 1000), ("2GiB", 2**31), ("1.5k", 1500), ("512MB", 512 * 10**6), ("8B", 8)]
)
def test_parse_bytes_reads_units(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "2 Gigs", "-1", "1e3", "nan"])
def test_parse_bytes_nonsense_raises(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|float"):
        parse_bytes(text)


amounts = st.builds(Resources, cpus=st.integers(0, 9), gpus=st.integers(0, 9), memory_bytes=st.integers(0, 99))


@given(need=amounts, free=amounts)
def test_shortfall_is_empty_exactly_when_it_fits(need: Resources, free: Resources) -> None:
    fits = need.cpus <= free.cpus and need.gpus <= free.gpus and need.memory_bytes <= free.memory_bytes
    assert (not need.shortfall(free)) == fits
    if fits:
        assert free.minus(need) + need == free
    assert need + NOTHING == need and need.times(2) == need + need


@given(st.lists(st.integers(0, 10**12)))
def test_money_adds_up_exactly(parts: list[int]) -> None:
    total = Money()
    for part in parts:
        total += Money(part)
    assert total.nano_usd == sum(parts)


def test_price_one_core_hour_costs_its_rate() -> None:
    assert price(0.04, 1, 3600) == Money(40_000_000)
    assert str(price(0.04, 1, 3600)) == "$0.040000"


def test_error_survives_the_wire_as_the_same_class() -> None:
    body = msgspec.json.decode(
        msgspec.json.encode(errors.IllegalMove("a", next_action="b").body()), type=errors.ErrorBody
    )
    back = errors.rebuild(body)
    assert type(back) is errors.IllegalMove and (back.message, back.next_action) == ("a", "b")
    unknown = errors.rebuild(msgspec.structs.replace(body, code="from_the_future"))
    assert type(unknown) is errors.Conflict


def test_error_code_taken_twice_raises() -> None:
    with pytest.raises(TypeError, match="share the code"):
        type("IllegalMove", (errors.Conflict,), {})


def test_moves_refuse_what_the_table_does_not_list() -> None:
    with pytest.raises(errors.IllegalMove, match="succeeded"):
        MOVES.check("task", TaskState.SUCCEEDED, TaskState.RUNNING)
    with pytest.raises(TypeError, match="no row"):
        Moves("x", {TaskState.QUEUED: (TaskState.RUNNING,)})


@pytest.mark.parametrize("path", ["../x", "a/../b", "/etc/passwd", "a//b", "./a", "a/.", "a\\b", "a\0b", ""])
def test_relative_path_outside_the_root_is_refused(path: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(path, bounds.RelativePath)


@pytest.mark.parametrize("path", ["a", "a/b.py", "a.b/c..d", ".hidden", "数据/图.png"])
def test_relative_path_below_the_root_is_fine(path: str) -> None:
    assert msgspec.convert(path, bounds.RelativePath) == path


def test_digest_of_value_ignores_key_order() -> None:
    assert digests.of_value({"a": 1, "b": 2}) == digests.of_value({"b": 2, "a": 1})
    assert digests.of_chunks([b"ab", b"c"]) == digests.of_bytes(b"abc")


def test_digest_of_value_takes_numbers_for_keys() -> None:
    assert digests.of_value({2: "b", 1: "a"}) == digests.of_value({1: "a", 2: "b"})
    assert digests.of_value({1: "b", 2: "a"}) != digests.of_value({1: "a", 2: "b"})


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "cheap"])
def test_settings_price_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="SKYLOOM_PRICE_GPU_USD_PER_HOUR"):
        Settings.read({"SKYLOOM_PRICE_GPU_USD_PER_HOUR": text})


def test_settings_environment_wins_over_default_and_override_over_both() -> None:
    assert Settings.read({"SKYLOOM_PORT": "1"}).port == 1
    assert Settings.read({"SKYLOOM_PORT": "1"}, port=2).port == 2
    with pytest.raises(InvalidSetting, match="SKYLOOM_PORT='x'"):
        Settings.read({"SKYLOOM_PORT": "x"})
    with pytest.raises(TypeError):
        Settings.read({}, nonsense=1)
    assert all(setting.help.endswith(".") for setting in SETTINGS)


def test_task_environment_outside_of_a_job_is_one_local_worker() -> None:
    outside = TaskEnvironment.read({})
    assert (outside.rank, outside.world_size, outside.task_id, outside.token) == (0, 1, "", "")


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (0.00012, "0.00012"), (999.94, "999.9"), (12_500.4, "12,500"), (1e9, "1,000,000,000")],
)
def test_short_number_is_told_without_a_power_of_ten(number: float, words: str) -> None:
    assert short(number) == words
    assert usd(number) == f"${words}"


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0"), (2.425e-06, "<0.0001"), (1e-4, "0.0001"), (0.01234, "0.01234"), (1234.5, "1,234")]
)
def test_hours_are_told_without_a_power_of_ten(number: float, words: str) -> None:
    assert hours(number) == words


def test_small_dollars_are_told_without_a_power_of_ten() -> None:
    assert (usd(2.9e-05), short(2.425e-06), short(1e-300, 1)[:3]) == ("$0.000029", "0.000002425", "0.0")
