"""Batch prediction: a model says something of every row of a dataset version, and that is a dataset version too."""
