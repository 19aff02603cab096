"""Batch prediction inside a job: rows are read as they are used, go through the model that a replica would load, and are kept by shards."""
