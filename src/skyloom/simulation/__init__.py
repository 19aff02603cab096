"""Simulations of whole logs: read a trace, play it out by the cloud's own rules, count, draw. Needs no cloud."""
