"""The one process of a test worker that others are forked from, with their imports done. Python has one for all who fork so."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tests.forked_plane", "tests.forked_command", "tests.crashing", "tests.recipes.ingest_process"]
)
