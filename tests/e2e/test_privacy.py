"""After a full run: nobody but the owner can read the home folder, and no secret lies where it does not belong."""

from pathlib import Path

from skyloom.ports.engine import Command
from skyloom.rooms.jobs.model import JobSpec, JobState
from skyloom.sdk.client import Client
from tests.control_plane import ControlPlane

# A job says what it was told, so that a token in its environment would show.
SCRIPT = "env; tr '\\0' ' ' < /proc/self/cmdline; touch made; mkdir -p folder; test -s $SKYLOOM_TOKEN_FILE"


def run(cloud: Client, tmp_path: Path) -> str:
    """One job and one dataset; returns what the job printed."""
    (tmp_path / "rows.csv").write_text("n,kind\n1,a\n2,b\n")
    draft = cloud.data.create("rows", tmp_path / "rows.csv")
    job_id = cloud.jobs.submit(JobSpec(entry=Command(argv=("sh", "-c", SCRIPT)))).job.id
    assert cloud.jobs.wait(job_id, timeout_s=30).state is JobState.SUCCEEDED
    cloud.data.finish(draft, timeout_s=60)
    cloud.jobs.wait(draft.draft.job_id, timeout_s=30)
    return "".join(cloud.jobs.follow(job_id))


def test_home_after_a_full_run_is_its_owners_alone_and_holds_no_secret_but_the_files_of_secrets(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)  # an owner who made it himself
    plane = ControlPlane(home, forked=True).start().ready()
    try:
        with plane.client() as cloud:
            printed = run(cloud, tmp_path)
        below = list(home.rglob("*"))
        assert any(path.name.endswith(".lance") for path in below) and home / "skyloom.db-wal" in below
        open_to_others = [(oct(path.stat().st_mode), path) for path in below if path.stat().st_mode & 0o077]
        assert open_to_others == []
        files = [path for path in [*below, plane.log] if path.is_file()]
        token = plane.token.encode()
        assert [path for path in files if token in path.read_bytes()] == [home / "token"]
        assert [path for path in files if b"sky_task." in path.read_bytes()] == []
        assert "sky_" not in printed and plane.token not in printed
    finally:
        plane.end_everything()
