"""Devices: small machines that serve a model far from here, offline for as long as it takes, and report when they can."""
