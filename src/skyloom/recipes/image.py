"""The image recipe: ``python -m skyloom.recipes.image --config config.json``. The network is in `image_training`."""

import sys

from skyloom.recipes.entry import start

if __name__ == "__main__":
    sys.exit(start("skyloom.recipes.image_training"))
