import pytest

from tests.inference.serving import running


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One replica of the toy model for the tests of a module: (process, client, listening, folder)."""
    folder = tmp_path_factory.mktemp("replica")
    with running(folder) as (process, client, listening):
        yield process, client, listening, folder
        assert process.process.poll() is None, process.text()
