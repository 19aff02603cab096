"""The tabular recipe: ``python -m skyloom.recipes.tabular --config config.json``. The network is in `tabular_training`."""

import sys

from skyloom.recipes.entry import start

if __name__ == "__main__":
    sys.exit(start("skyloom.recipes.tabular_training"))
