"""Triggers: when this happens, do that. The log of events is the queue; what is done goes with the rights of who asked for it."""
