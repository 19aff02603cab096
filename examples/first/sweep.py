"""One task of many: it reads which one it is, and looks at its part of a search.

skyloom array run --size 40 examples/first/sweep.py
"""

import os

index, size = int(os.environ["SKYLOOM_ARRAY_INDEX"]), int(os.environ["SKYLOOM_ARRAY_SIZE"])
rate = 10 ** (-4 + 3 * index / max(1, size - 1))
print(f"task {index} of {size}: learning rate {rate:.2g}", flush=True)
