"""Pools: where jobs may run. This machine is one; clusters are added to it."""
