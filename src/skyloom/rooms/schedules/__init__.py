"""Schedules: jobs that begin by the clock. A slot begins at most one, whatever crashes and however the clock is set."""
