"""Adapters of `ports.outbound`."""
