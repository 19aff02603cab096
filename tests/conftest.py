from collections.abc import Iterator
from pathlib import Path

import pytest

from skyloom.cli import main
from tests.control_plane import ControlPlane
from tests.ray_cluster import RayCluster
from tests.terminal import Said, Terminal


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A started control plane in an empty folder; everything it runs is ended afterwards. For tests that kill, count or list."""
    plane = ControlPlane(tmp_path / "home", forked=True).start().ready()
    yield plane
    plane.end_everything()


@pytest.fixture(scope="session")
def cloud_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane for all tests that only add to it and look at what they added."""
    plane = ControlPlane(tmp_path_factory.mktemp("cloud") / "home").start().ready()
    yield plane
    plane.end_everything()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """One cluster of one node for all tests of the Ray engine: it takes some ten seconds to start."""
    cluster = RayCluster()
    try:
        cluster.node.wait_started()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def terminal(
    cloud_process: ControlPlane, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Terminal:
    """Runs command lines in this process against the shared cloud."""
    monkeypatch.setenv("SKYLOOM_HOME", str(cloud_process.home))

    def run(*words: str) -> Said:
        capfd.readouterr()
        return Said(main(list(words)), *capfd.readouterr())

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what is dear to start go to one worker of the suite: those of one Ray cluster, and those of a module's fixture,
    which every other worker would make once more."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif not item.get_closest_marker("xdist_group") and _shares_with_its_module(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def _shares_with_its_module(item: pytest.Item) -> bool:
    made = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    return any(definitions[-1].scope in ("class", "module") for definitions in made.values())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what a test had to tell (`record_property("story", line)`), and which parts of the machine were not there."""
    for kind in ("passed", "failed"):
        for report in terminalreporter.stats.get(kind, []):
            told = [value for name, value in report.user_properties if name == "story" and report.when == "call"]
            if told:
                terminalreporter.write_sep("-", report.nodeid)
            for line in told:
                terminalreporter.write_line(str(line))
    for report in terminalreporter.stats.get("skipped", []):
        why = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if "NOT" in why:
            terminalreporter.write_line(f"{report.nodeid}: {why}")
