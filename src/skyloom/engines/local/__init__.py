"""The local engine: every task is a process tree under its own supervisor on this machine."""

from skyloom.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
