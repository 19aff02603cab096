"""The Ray engine: every task is a process tree under its own supervisor on a node of a Ray cluster."""

from skyloom.engines.ray.engine import RayEngine
from skyloom.engines.ray.link import NotReachedYet

__all__ = ["NotReachedYet", "RayEngine"]
