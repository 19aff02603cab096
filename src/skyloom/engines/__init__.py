"""Engines: adapters of `ports.engine`."""
