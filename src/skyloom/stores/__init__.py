"""Adapters of `ports.store`."""
