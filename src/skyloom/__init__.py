"""Skyloom: an AI cloud in one package. ``import skyloom; cloud = skyloom.connect()``."""

__version__ = "0.1.0"
