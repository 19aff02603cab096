"""The terminal: words → SDK calls → one renderer. It holds no rules of its own and never opens the data folder's database."""

from skyloom.cli.root import main

__all__ = ["main"]
