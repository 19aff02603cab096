"""Adapters of `ports.series.Series`: where measurements lie."""
