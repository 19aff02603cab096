"""A model on a small device: one small process that serves it offline for any time, and reports when it can.

It imports the data plane (`skyloom.inference`) and the messages of the devices room; nothing of the control plane, and no client library.
``python -m skyloom.edge``.
"""
