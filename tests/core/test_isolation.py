import logging

import pytest

from skyloom.core.errors import InvalidInput, SkyloomError, StorageFull, Unavailable
from skyloom.core.isolation import isolated

log = logging.getLogger("test of isolation")


@pytest.mark.parametrize("trouble", [ValueError("not foreseen"), InvalidInput("It is wrong.", next_action="")])
def test_what_fails_is_logged_with_its_name_and_the_round_goes_on(
    trouble: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # import-linter, which other tests call, switches off every logger that it finds.
    monkeypatch.setattr(log, "disabled", False)
    with isolated(log, "thing 1"):
        raise trouble
    assert "thing 1" in caplog.text and str(trouble) in caplog.text


@pytest.mark.parametrize("kind", [StorageFull, Unavailable])
def test_what_is_nobodys_own_fault_ends_the_round(kind: type[SkyloomError]) -> None:
    with pytest.raises(kind), isolated(log, "thing 1"):
        raise kind("It passes.", next_action="")
