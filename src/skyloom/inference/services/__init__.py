"""Your own Python behind the data plane: a process of its own, spoken to in frames over a socket.

    wire/service_site.py (HTTP) → process.py: ServiceProcess → frames.py ═ socket, shared memory ═ worker.py → running.py → the user's class

The data plane never imports the user's code, and the worker never sees a client's connection.
"""
