"""Ready trainers. Each is a module that a job runs: ``python -m skyloom.recipes.image --config config.json``."""
