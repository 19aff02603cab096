"""Datasets: tables whose every version says what made it, from what, and what was lost on the way."""
