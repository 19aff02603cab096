"""The typed client. `connect` gives a `Client`; every operation has a method, and every method sends one operation."""
