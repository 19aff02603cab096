"""Runs and their measurements: what was trained, with which parameters, on which data, and how it went."""
