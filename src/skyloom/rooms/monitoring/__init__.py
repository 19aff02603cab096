"""Monitoring: how endpoints do and whether their traffic still looks like training. Knows endpoints only as ids that report."""
