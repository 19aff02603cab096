"""The list of operations: the one interface that all faces are made from."""

from skyloom.rooms.arrays import model as arrays
from skyloom.rooms.batch import model as batch
from skyloom.rooms.cost import budget
from skyloom.rooms.cost import model as cost
from skyloom.rooms.data import model as data
from skyloom.rooms.devices import rollout as devices
from skyloom.rooms.functions import model as functions
from skyloom.rooms.jobs import model as jobs
from skyloom.rooms.lineage import model as lineage
from skyloom.rooms.monitoring import model as monitoring
from skyloom.rooms.overview import model as overview
from skyloom.rooms.planning import model as planning
from skyloom.rooms.pools import model as pools
from skyloom.rooms.quality import model as quality
from skyloom.rooms.registry import model as registry
from skyloom.rooms.sampling import model as sampling
from skyloom.rooms.schedules import model as schedules
from skyloom.rooms.scheduling import rulebook as scheduling
from skyloom.rooms.secrets import model as secrets
from skyloom.rooms.serving import change, judging
from skyloom.rooms.serving import model as serving
from skyloom.rooms.templates import model as templates
from skyloom.rooms.tenancy import model as tenancy
from skyloom.rooms.tracking import model as tracking
from skyloom.rooms.training import model as training
from skyloom.rooms.triggers import model as triggers
from skyloom.rooms.webhooks import model as webhooks

OPERATIONS = (
    *overview.OPERATIONS,
    *tenancy.OPERATIONS,
    *monitoring.OPERATIONS,
    *cost.OPERATIONS,
    *secrets.OPERATIONS,
    *scheduling.OPERATIONS,
    *pools.OPERATIONS,
    *budget.OPERATIONS,
    *webhooks.OPERATIONS,
    *jobs.OPERATIONS,
    *arrays.OPERATIONS,
    *schedules.OPERATIONS,
    *templates.OPERATIONS,
    *registry.OPERATIONS,
    *serving.OPERATIONS,
    *change.OPERATIONS,
    *judging.OPERATIONS,
    *quality.OPERATIONS,
    *sampling.OPERATIONS,
    *batch.OPERATIONS,
    *functions.OPERATIONS,
    *triggers.OPERATIONS,
    *devices.OPERATIONS,
    *tracking.OPERATIONS,
    *training.OPERATIONS,
    *planning.OPERATIONS,
    *data.OPERATIONS,
    *lineage.OPERATIONS,
)
