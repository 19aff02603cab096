"""Waiting for a deployment says each thing once."""

from types import SimpleNamespace

import pytest

from skyloom.cli.awaiting import awaited
from skyloom.sdk.serving import EndpointFailed


def seen(message: str, *failures: int):
    replicas = [
        SimpleNamespace(replica=SimpleNamespace(failed=True, revision_number=2, created_at=one, job_id=f"job_{one}"))
        for one in failures
    ]
    old = SimpleNamespace(replica=SimpleNamespace(failed=True, revision_number=1, created_at=99, job_id="job_old"))
    return SimpleNamespace(message=message, endpoint=SimpleNamespace(revision=2), replicas=[old, *replicas])


class Cloud:
    """An endpoint that fails twice in the same way, in other jobs."""

    def __init__(self) -> None:
        self.endpoints = self.jobs = self

    def wait(self, name: str, *, timeout_s: float, watch) -> None:
        for status in (seen("0 of 1."), seen("0 of 1."), seen("Failed: /job_1", 1), seen("Failed: /job_2", 1, 2)):
            watch(status)
        raise EndpointFailed("It is crash_loop: no file | open(x) | job_2", next_action="Mend it.")

    def logs(self, job_id: str, offset: int):
        text = f"  open(x)\n\nno file\n\x1b[31m{job_id}\n"
        return SimpleNamespace(text=text[offset:], next_offset=len(text))


@pytest.mark.parametrize(
    ("log", "shown", "action"),
    [
        ("", "skyloom job logs job_1", "Mend it."),
        ("skyloom function logs f", "skyloom function logs f", "Read all of it: skyloom function logs f. Mend that"),
    ],
)
def test_deployment_that_fails_again_and_again_says_it_once_with_the_end_of_the_log(capsys, log, shown, action) -> None:
    with pytest.raises(EndpointFailed) as failed:
        awaited(Cloud(), "toy", 1.0, log)
    assert failed.value.message == "It is crash_loop: no file" and failed.value.next_action.startswith(action)
    assert capsys.readouterr().err.splitlines() == [
        "0 of 1.",
        f"A replica failed; it is tried again. Its log: {shown}.",
        "    open(x)",
        r"  \x1b[31mjob_2",
    ]
