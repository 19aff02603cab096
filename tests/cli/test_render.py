import io
import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from skyloom.cli.render import _draw, progress, render, render_error, show, show_error
from skyloom.core.errors import InvalidInput, NotFound
from skyloom.core.money import Money
from skyloom.core.operation import Done, Page
from skyloom.core.resources import Resources
from skyloom.ports.engine import Command
from skyloom.ports.series import Point
from skyloom.rooms.cost.model import CostBy
from skyloom.rooms.cost.prices import PriceBook
from skyloom.rooms.cost.rules import report
from skyloom.rooms.cost.usage import held
from skyloom.rooms.data.model import Excerpt
from skyloom.rooms.jobs.model import Job, JobSpec, JobState, JobStatus, Reason
from skyloom.rooms.lineage.model import Kind, LineageNode
from skyloom.rooms.monitoring.model import Alert, AlertState, FeatureDrift, Monitor, Signal
from skyloom.rooms.overview.model import CloudStatus

EVIL = "\x1b[2J\u202eevil\r\n[bold]x[/bold]"


def alert(message: str = "3 of 7 features differ.") -> Alert:
    return Alert(
        id="alert_1",
        project="p",
        endpoint="endpoint_1",
        endpoint_name="digits",
        signal=Signal.DRIFT,
        state=AlertState.FIRING,
        value=0.6,
        threshold=0.2,
        message=message,
        fired_at=1_700_000_000.0,
    )


def monitor() -> Monitor:
    shifted = FeatureDrift(
        name="pixel mean",
        is_output=False,
        rows=400,
        psi=3.81,
        psi_by_chance=0.2,
        distance=0.6,
        distance_by_chance=0.1,
        beyond_chance=True,
        drifted=True,
        missing_share=0.0,
        edges=(1.0, 2.0),
        expected_shares=(0.5, 0.5, 0.0),
        seen_shares=(0.0, 0.0, 1.0),
    )
    return Monitor(
        endpoint="endpoint_1",
        endpoint_name="digits",
        replicas=2,
        window_s=60.0,
        requests=600,
        rows=600,
        requests_per_s=10.0,
        rows_per_s=10.0,
        client_errors=0,
        server_errors=3,
        error_rate=0.005,
        latency_p50_s=0.0012,
        latency_p90_s=0.002,
        latency_p99_s=None,
        drift=(shifted,),
        alerts=(alert(),),
    )


def test_list_for_a_pipe_is_a_table_with_one_line_a_row():
    shown = render(Page(items=(alert(), alert("x" * 390)), next_cursor="alert_1"))
    head, first, second, more = shown.splitlines()
    assert head.split() == ["ALERT", "ABOUT", "SIGNAL", "STATE", "SINCE", "TIMES", "FIRED", "MESSAGE"]
    assert first.split("  ")[0] == "alert_1"
    assert "2023-11-14 22:13:20Z" in first
    assert second.endswith("x" * 390)
    assert more == "more: --cursor alert_1"


def test_empty_list_says_so():
    assert render(Page(items=())) == "Nothing here yet."


def test_page_of_a_noun_shows_pairs_then_parts_with_drawn_histograms():
    shown = render(monitor())
    assert "error rate     0.5%" in shown
    assert "latency p50    1.2 ms" in shown
    assert "latency p99" not in shown
    assert "▅▅▁" in shown  # half of the other histogram's highest bin
    assert "▁▁█" in shown
    assert "pixel mean  yes      3.81" in shown


def test_cost_report_draws_parts_and_ends_with_the_total():
    book = PriceBook(cpu_usd_per_hour=1.0)
    used = {name: held(Resources(cpus=1), round(hours * 3.6e9), book) for name, hours in (("job_a", 3), ("job_b", 1))}
    made = report(CostBy.JOB, used, [], since=0, until=1e6, limit=9, prices=book)
    lines = render(made).splitlines()
    assert lines[1].startswith("job_a")
    assert lines[1].endswith("$3.00  " + "█" * 15)
    assert lines[-1].startswith("total")
    assert "$4.00" in lines[-1]


@pytest.mark.parametrize("value", [alert(EVIL), Page(items=(alert(EVIL),)), {"name": EVIL}, [EVIL], EVIL])
def test_text_of_users_cannot_command_the_terminal(value: object):
    shown = render(value)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\x1b[2J\u202eevil\r\n[bold]x[/bold]" in shown
    told = render(value, as_json=True)
    assert "\u202e" not in told
    assert EVIL in texts(json.loads(told))


def texts(value: object) -> list[str]:
    """Every text inside a decoded JSON value."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] if isinstance(value, str) else [text for part in parts for text in texts(part)]


def test_json_is_what_the_operation_answered():
    assert json.loads(render(Money(5), as_json=True)) == {"nano_usd": 5}
    assert json.loads(render({"a": "é\u202e\U000e0041"}, as_json=True)) == {"a": "é\u202e\U000e0041"}


@pytest.mark.parametrize(
    ("value", "expected"), [(Done(), "done"), (Money(10**9), "$1.00"), ("text", "text"), ((), "Nothing here yet.")]
)
def test_small_answers_are_one_line(value: object, expected: str):
    assert render(value) == expected


def test_piped_text_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch):
    before = render(monitor())
    for name, value in {"COLUMNS": "20", "FORCE_COLOR": "1", "TERM": "dumb", "JUPYTER_COLUMNS": "9"}.items():
        monkeypatch.setenv(name, value)
    assert render(monitor()) == before


def test_terminal_gets_colour_and_its_own_width(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    primary, secondary = pty.openpty()
    with os.fdopen(secondary, "w", encoding="utf-8") as terminal:
        show(Page(items=(alert("word " * 30),)), file=terminal)
    shown = os.read(primary, 65_536).decode()
    os.close(primary)
    assert "\x1b[31m" in shown  # "firing" in red
    assert len(shown.splitlines()) > 4  # folded


def test_output_that_cannot_show_a_character_gets_its_escape():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show({"name": "東"}, file=file)
    file.seek(0)
    assert r"\u6771" in file.read()


def test_error_is_two_lines_and_its_category_decides_the_exit_code():
    error = NotFound("There is no job \x1b[0m.", next_action="List yours: skyloom job list.")
    file = io.StringIO()
    assert show_error(error, file=file) == 5
    assert file.getvalue() == "error not_found: There is no job \\x1b[0m.\nnext: List yours: skyloom job list.\n"
    body = json.loads(render_error(InvalidInput("No.", next_action=""), as_json=True))
    assert body == {"error": {"code": "invalid_input", "category": "invalid", "message": "No.", "next_action": ""}}


def test_progress_without_a_terminal_says_each_tenth_once(capsys: pytest.CaptureFixture[str]):
    with progress("Uploading", total=40) as advance:
        for _ in range(40):
            advance(1)
    assert capsys.readouterr().err.splitlines() == [f"Uploading: {tenth}0%" for tenth in range(1, 11)]


@pytest.mark.parametrize(
    ("options", "said"), [({"quiet": True, "total": 3}, ""), ({"quiet": True}, ""), ({}, "Uploading …\n")]
)
def test_progress_when_quiet_says_nothing_and_of_unknown_length_its_title(
    capsys: pytest.CaptureFixture[str], options: dict[str, Any], said: str
):
    with progress("Uploading", **options) as advance:
        advance(3)
    assert capsys.readouterr().err == said


def test_json_answers_are_printed_without_importing_rich():
    code = (
        "import sys; from skyloom.cli.render import show; from skyloom.core.money import Money;"
        "show(Money(1), as_json=True); assert 'rich' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_lineage_is_drawn_as_a_tree():
    def node(kind: Kind, name: str, *following: LineageNode) -> LineageNode:
        return LineageNode(kind=kind, id=f"{name}_id", name=name, at=0.0, facts={"a": EVIL}, next=following)

    root = node(Kind.ROW, "row", node(Kind.RUN, "one"), node(Kind.RUN, "two", node(Kind.MODEL_VERSION, "three")))
    lines = render(root).splitlines()
    assert [line.strip().split("  ")[0] for line in lines] == ["row", "├── one", "└── two", "└── three"]
    assert r"three_id · 1970-01-01 00:00:00Z · a: \x1b[2J\u202eevil" in lines[-1]


def test_rows_of_a_dataset_are_a_table_of_their_own_columns():
    shown = render(Excerpt(columns=("_rowid", "na\nme"), rows=((7, "x"), (9, None)), num_rows=5_000))
    assert [line.split() for line in shown.splitlines()] == [
        ["_ROWID", r"NA\NME"],
        ["7", "x"],
        ["9", "–"],
        ["2", "of", "5,000", "rows"],
    ]


def test_measurements_by_name_are_a_table():
    shown = render({"loss": Point("loss", 3, 0.0, 0.25), "acc": Point("acc", 3, 0.0, None)})
    assert shown.splitlines()[1].split() == ["loss", "3", "1970-01-01", "00:00:00Z", "0.25"]


def narrow(value: object, width: int) -> str:
    """What a terminal of that width shows."""
    console = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO(), _environ={})
    _draw(value, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_ids_and_states_are_never_broken_over_lines(width: int) -> None:
    identifier = "job_01m7zfzgpwmff3h42ryaqhv1rb"
    job = Job(
        id=identifier,
        project="p",
        spec=JobSpec(entry=Command(argv=("x",)), name="train digits with a name that goes on for long"),
        submitted_at=0.0,
        submitted_by="ann",
    )
    status = JobStatus(
        job=job,
        state=JobState.SUCCEEDED,
        reason=Reason.WAITING_FOR_DEPENDENCIES,
        outlook="likely to end in 10 min (42 s to 2 h)",
        started_at=1.7e9,
        ended_at=1.7e9,
    )
    shown = narrow(Page(items=(status,)), width)
    assert identifier in shown
    assert "succeeded" in shown
    assert max(map(len, shown.splitlines())) <= width
    assert ("left out to fit: " in shown) == (width < 200)
    assert "left out" not in render(Page(items=(status,)))


def test_message_of_an_alert_is_left_out_last() -> None:
    shown = narrow(Page(items=(alert("word " * 12),)), 70)
    assert "MESSAGE" in shown
    assert "alert_1" in shown
    assert "left out to fit: " in shown


def test_status_tells_counts_in_words_and_its_process() -> None:
    status = CloudStatus(
        version="1",
        url="http://here",
        pid=4711,
        uptime_s=1.0,
        capacity=Resources(cpus=1),
        used=Resources(cpus=1),
        disk_free_bytes=1,
        counts={"jobs": {"running": 2, "queued": 1}, "endpoints": {"live": 0}, "alerts": {}},
    )
    lines = [line.split(None, 1) for line in render(status).splitlines()]
    assert ["pid", "4711"] in lines
    assert ["jobs", "2 running, 1 queued"] in lines
    assert ["endpoints", "none"] in lines
