"""What nobody holds any more is let go of before there is much of it, however long it was held."""

import subprocess
import sys

# Connections that hold themselves, a hundred open at a time; prints the most that were there at once.
CLIENTS = """
import collections
from skyloom.inference.memory import settle_memory

class Client:
    def __init__(self):
        global alive
        alive += 1
        self.itself = self

    def __del__(self):
        global alive
        alive -= 1

alive = most = 0
settle_memory()
open_ones = collections.deque(maxlen=100)
for _ in range(200_000):
    open_ones.append(Client())
    most = max(most, alive)
print(most)
"""


def test_closed_connections_are_found_before_there_are_many():
    done = subprocess.run([sys.executable, "-c", CLIENTS], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 10_000  # they were 50,000
