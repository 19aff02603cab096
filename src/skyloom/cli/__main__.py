"""``python -m skyloom.cli``."""

import sys

from skyloom.cli.root import main

sys.exit(main())
