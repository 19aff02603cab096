"""One row a job, for who wants to look closer: what a simulation says about each, as CSV."""

import csv
from pathlib import Path

from skyloom.durable import disk_errors
from skyloom.simulation.figure import check_folder
from skyloom.simulation.metrics import completion_s, in_time, wait_s
from skyloom.simulation.model import Played

COLUMNS = (
    "job_id",
    "tenant",
    "num_gpus",
    "submit_s",
    "start_s",
    "end_s",
    "jct_s",
    "wait_s",
    "held_gpu_s",
    "num_preemptions",
    "num_resizes",
    "deadline_s",
    "deadline_met",
)


def write_jobs(played: Played, path: Path) -> None:
    """Write the jobs in the order of submission; what did not happen is empty. Raises `FolderMissing`, `StorageFull`, `NotPermitted`."""
    check_folder(path)
    with disk_errors(path), path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(_rows(played))


def _rows(played: Played) -> list[tuple[object, ...]]:
    return [
        (
            job.job_id,
            job.tenant,
            job.num_gpus,
            job.submit_s,
            life.started_at,
            life.ended_at,
            None if life.ended_at is None else completion_s(job, life),
            None if life.ended_at is None else wait_s(job, life),
            life.held_gpu_s,
            life.num_preemptions,
            life.num_resizes,
            job.deadline_s,
            None if job.deadline_s is None else in_time(job, life),
        )
        for job, life in zip(played.jobs, played.lives, strict=True)
    ]
