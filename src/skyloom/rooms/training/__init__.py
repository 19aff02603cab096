"""Training: a recipe or a script, a dataset version and a target become a run and the job that does it."""
