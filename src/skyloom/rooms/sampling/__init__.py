"""Sampling: some of an endpoint's requests and answers, redacted where they are written, become rows of a dataset."""
