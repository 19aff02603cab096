"""The last job: begins when the array has ended, however."""

import sys

print("report", *sys.argv[1:])
