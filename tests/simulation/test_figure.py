"""Figures: both forms are made, and names of jobs stay text."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from skyloom.rooms.scheduling.model import Policy, Rulebook
from skyloom.simulation.figure import MAX_ROWS, FigureRefused, FolderMissing, check_figure, figure, page, write_figure
from skyloom.simulation.model import Cluster, Played, Scenario, TraceJob
from skyloom.simulation.play import play

NASTY = "<script>alert(1)</script>$\\frac{"


def played(num_jobs: int = 3, name: str = "job") -> Played:
    jobs = [
        TraceJob(job_id=f"{name}{number}", submit_s=number, duration_s=5, num_gpus=2, tenant=f"{name}{number % 12}")
        for number in range(num_jobs)
    ]
    rules = Rulebook(policy=Policy.FIFO, elastic=False)
    return play(jobs, Scenario(cluster=Cluster(num_nodes=1, gpus_per_node=4), rules=rules))


def test_figure_has_a_strip_for_each_job_and_when_it_waited_and_ran() -> None:
    strips = figure(played()).strips
    assert [(strip.waited, strip.ran) for strip in strips] == [
        ((0, 5), ((0, 5),)),
        ((1, 6), ((1, 6),)),
        ((2, 10), ((5, 10),)),
    ]


def test_figure_of_many_jobs_shows_the_first_and_says_so() -> None:
    drawn = figure(played(MAX_ROWS + 40))
    assert len(drawn.strips) == MAX_ROWS
    assert drawn.note == f"the first {MAX_ROWS} of {MAX_ROWS + 40} jobs"


def test_page_is_well_formed_and_holds_names_as_text(tmp_path: Path) -> None:
    text = page(figure(played(name=NASTY)))
    assert "<script" not in text
    svg = text[text.index("<svg") : text.index("</html>")]
    labels = [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert any(label.startswith("<script>") for label in labels)


def test_figures_are_written_in_both_forms(tmp_path: Path) -> None:
    for name, begins in (("plan.html", b"<!doctype html>"), ("plan.png", b"\x89PNG")):
        write_figure(played(name="任务 $x$"), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)


def test_figures_of_other_kinds_or_in_no_folder_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FigureRefused):
        check_figure(tmp_path / "plan.pdf")
    with pytest.raises(FolderMissing):
        check_figure(tmp_path / "none" / "plan.html")
