"""Adapters of `skyloom.ports.tables`: versioned tables on a local disk, and in memory for tests."""
