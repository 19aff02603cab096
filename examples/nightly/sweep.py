"""A task of the array, once all is prepared."""

import os

print("part", os.environ["SKYLOOM_ARRAY_INDEX"], "of", os.environ["SKYLOOM_ARRAY_SIZE"])
