"""Endpoints: models that answer. Each replica of a revision is a job that runs ``skyloom.inference``."""
