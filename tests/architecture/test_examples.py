"""Commands in the pages name files that are in the repository, and pages that print such a file print it as it is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")]


def block(page: str, start: str) -> str:
    """The text of a page from ``start`` up to where its block, or the answer of its command, ends."""
    text = (ROOT / "docs" / page).read_text()
    return re.split(r"^(?:```|\$ )", text[text.index(start) :], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"examples/[\w./-]*\w", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("page", "file"),
    [("jobs.md", "nightly/nightly.yaml"), ("planning.md", "first/times.csv")],
    ids=["jobs", "planning"],
)
def test_file_that_a_page_prints_is_the_one_in_the_repository(page: str, file: str) -> None:
    text = (ROOT / "examples" / file).read_text()
    assert block(page, text.splitlines()[0]) == text


def test_both_readmes_name_the_same_examples() -> None:
    shown = [re.findall(r"examples/[\w./-]*\w", (ROOT / name).read_text()) for name in ("README.md", "README.zh-CN.md")]
    assert set(shown[0]) == set(shown[1]) and "examples/first/train.py" in shown[0]
