"""Words every floor shares: ids, operations, states, errors, events, resources, money.

Standard library and msgspec only; nothing here touches a file, a socket, a clock or a process.
"""
