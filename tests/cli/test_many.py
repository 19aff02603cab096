"""``skyloom array | schedule | secret | apply`` and the conditions of ``job run``, against a real control plane."""

import io
import json
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.terminal import Terminal

SMALL = ("--cpus", "0.2", "--memory", "128MiB")


def test_array_run_shows_counts_and_the_first_failure_and_exits_with_one(terminal: Terminal) -> None:
    shell = 'test "$SKYLOOM_ARRAY_INDEX/$SKYLOOM_ARRAY_SIZE" != 2/4'
    said = terminal("array", "run", "--size", "4", *SMALL, "--json", "--", "sh", "-c", shell)
    told = json.loads(said.out)
    assert (said.code, told["state"], told["num_succeeded"], told["num_failed"]) == (1, "failed", 3, 1)
    assert told["failures"][0]["index"] == 2
    shown = terminal("array", "show", told["array"]["id"])
    assert "1 of 4 failed; index 2" in shown.out
    assert "skyloom job logs job_" in shown.out
    assert terminal("array", "wait", told["array"]["id"]).code == 1
    jobs = terminal("array", "jobs", told["array"]["id"], "--json")
    assert len(json.loads(jobs.out)["items"]) == 4
    assert "1 of 4 failed" in terminal("why", told["array"]["id"]).out


@pytest.mark.parametrize("size", ["0", "10001", "many"])
def test_array_of_an_impossible_size_is_refused(terminal: Terminal, size: str) -> None:
    assert terminal("array", "run", "--size", size, "--", "true").code == 2


def test_array_with_a_key_is_made_once_and_another_request_with_it_is_refused(terminal: Terminal) -> None:
    key = uuid4().hex
    asked = ("array", "run", "-d", "--key", key, *SMALL, "--json")
    first, again = (json.loads(terminal(*asked, "--size", "2", "--", "true").out)["array"]["id"] for _ in range(2))
    assert first == again
    refused = terminal(*asked, "--size", "3", "--", "true")
    assert (refused.code, "key_reused" in refused.err) == (6, True)
    assert terminal("array", "wait", first).code == 0
    assert terminal("array", "cancel", first).code == 0


def test_job_after_one_that_fails_is_cancelled_and_rerun_does_its_work(terminal: Terminal) -> None:
    first = terminal("job", "run", *SMALL, "-d", "--json", "--", "sh", "-c", "exit 1")
    first_id = json.loads(first.out)["job"]["id"]
    said = terminal("job", "run", *SMALL, "--after", first_id, "--", "echo", "done anyway")
    assert said.code == 130
    assert f"{first_id}, which it comes after, failed" in said.err
    job_id = said.err.partition("skyloom job rerun ")[2].split(".")[0]
    again = terminal("job", "rerun", job_id)
    assert (again.code, again.out) == (0, "done anyway\n")
    ended = terminal("job", "run", *SMALL, "--after-ended", first_id, "--", "echo", "whatever")
    assert (ended.code, ended.out) == (0, "whatever\n")
    assert terminal("job", "run", "--after", "job_nobody", "--", "true").code == 5


def test_secret_is_read_from_a_pipe_used_listed_and_never_shown(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = f"db-{uuid4().hex[:8]}", f"canary\r\n{uuid4().hex}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{value}\r\n".encode())))
    made = terminal("secret", "set", name)
    assert made.code == 0
    shell = f'test "$PW" = "$(cat $SKYLOOM_SECRET_{name.replace("-", "_").upper()}_FILE)"; printf %s "$PW" | wc -c'
    used = terminal("job", "run", *SMALL, "--secret", name, "--secret", f"{name}=PW", "--", "sh", "-c", shell)
    assert used.out.strip() == str(len(value))
    listed, gone = terminal("secret", "list"), terminal("secret", "delete", name)
    assert (name in listed.out, gone.code) == (True, 0)
    assert value.split()[1] not in "".join(said.out + said.err for said in (made, used, listed, gone))
    assert terminal("job", "run", "--secret", name, "--", "true").code == 5
    assert terminal("job", "run", "--secret", "Not A Secret", "--", "true").code == 2


def test_secret_that_is_no_text_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    said = terminal("secret", "set", "key", "--file", str(tmp_path / "key"))
    assert (said.code, "secret_unreadable" in said.err, "base64" in said.err) == (2, True, True)


def test_schedule_is_created_paused_resumed_and_deleted(terminal: Terminal) -> None:
    name = f"tidy-{uuid4().hex[:8]}"
    cron = ("--cron", "30 2 29 2 *", "--time-zone", "Europe/Berlin")
    made = terminal("schedule", "create", *cron, "--json", name, "--", "echo", "--flag")
    assert json.loads(made.out)["schedule"]["spec"]["entry"]["argv"] == ["echo", "--flag"]
    assert terminal("schedule", "create", *cron, name, "--", "true").code == 6
    assert name in terminal("schedule", "list").out
    assert "paused by" in terminal("schedule", "pause", name).out
    assert "2028-02-29 01:30:00Z" in terminal("schedule", "resume", name).out
    assert terminal("schedule", "delete", name).code == 0
    assert terminal("schedule", "show", name).code == 5
    nonsense = terminal("schedule", "create", "--cron", "61 * * * *", "bad", "--", "true")
    assert (nonsense.code, "bad minute" in nonsense.err) == (2, True)


def test_apply_shows_asks_makes_and_then_has_nothing_to_do(terminal: Terminal, tmp_path: Path) -> None:
    name = f"t-{uuid4().hex[:8]}"
    file = tmp_path / "cloud.yaml"
    work = "cpus: 0.2, memory: 128MiB"
    file.write_text(
        f"name: {name}\njobs:\n  first: {{command: [echo, one], {work}}}\n"
        f"  many: {{command: [echo, two], size: 2, after: [first], {work}}}\n"
    )
    dry = terminal("apply", "-f", str(file), "--dry-run")
    assert (dry.code, dry.out.count("create")) == (1, 2)
    asked = terminal("apply", "-f", str(file))
    assert (asked.code, "--yes" in asked.err) == (2, True)
    made = json.loads(terminal("apply", "-f", str(file), "--yes", "--json").out)
    ids = {step["name"]: step["id"] for step in made["steps"]}
    assert terminal("array", "wait", ids["many"]).code == 0
    assert terminal("apply", "-f", str(file), "--dry-run").code == 0
    assert terminal("apply", "-f", str(file)).code == 0
    file.write_text(file.read_text().replace("cpus", "cpu"))
    wrong = terminal("apply", "-f", str(file))
    assert (wrong.code, "line 3, column" in wrong.err) == (2, True)
