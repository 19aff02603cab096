"""Curve fitting: `ports.curves` on scipy."""
