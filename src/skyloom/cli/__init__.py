"""The terminal: words → SDK calls → one renderer. It holds no rules of its own and never opens the data folder's database."""

try:
    from skyloom.cli.root import main
except ModuleNotFoundError as missing:
    if missing.name != "typer":
        raise
    from skyloom.edge.__main__ import alone as main  # a device that was installed without the terminal

__all__ = ["main"]
