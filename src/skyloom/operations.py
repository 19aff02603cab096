"""The list of operations: the one interface that all faces are made from."""

from skyloom.rooms.jobs import model as jobs
from skyloom.rooms.tenancy import model as tenancy

OPERATIONS = (*tenancy.OPERATIONS, *jobs.OPERATIONS)
