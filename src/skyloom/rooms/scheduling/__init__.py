"""Scheduling: who runs when, on what, and who has to make room. Knows gangs and nodes; knows nothing of jobs, stores or engines.

The same `Scheduler` decides for a live cloud (`rooms/jobs`) and for a simulated one (`simulation`). `forecast.forecast` plays out what
is open and says when each waiting gang will start and end; what it needs to know of durations is made in `durations`.
"""
