"""The list of all that a control plane keeps in its database, and of what is found there by the beginning of an id."""

from typing import Any

from skyloom.ports.door import EVENTS
from skyloom.ports.store import Collection
from skyloom.rooms.arrays import ports as arrays_ports
from skyloom.rooms.cost import ports as cost_ports
from skyloom.rooms.data import ports as data_ports
from skyloom.rooms.devices import ports as devices_ports
from skyloom.rooms.functions import ports as functions_ports
from skyloom.rooms.jobs import ports as jobs_ports
from skyloom.rooms.monitoring import ports as monitoring_ports
from skyloom.rooms.planning import ports as planning_ports
from skyloom.rooms.pools import ports as pools_ports
from skyloom.rooms.quality import ports as quality_ports
from skyloom.rooms.registry import ports as registry_ports
from skyloom.rooms.sampling import ports as sampling_ports
from skyloom.rooms.schedules import ports as schedules_ports
from skyloom.rooms.scheduling import ports as scheduling_ports
from skyloom.rooms.secrets import ports as secrets_ports
from skyloom.rooms.serving import ports as serving_ports
from skyloom.rooms.templates import ports as templates_ports
from skyloom.rooms.tenancy import ports as tenancy_ports
from skyloom.rooms.tracking import ports as tracking_ports
from skyloom.rooms.triggers import ports as triggers_ports
from skyloom.rooms.webhooks import ports as webhooks_ports

COLLECTIONS = (
    *tenancy_ports.COLLECTIONS,
    *cost_ports.COLLECTIONS,
    *webhooks_ports.COLLECTIONS,
    *monitoring_ports.COLLECTIONS,
    *secrets_ports.COLLECTIONS,
    *scheduling_ports.COLLECTIONS,
    *pools_ports.COLLECTIONS,
    *jobs_ports.COLLECTIONS,
    *arrays_ports.COLLECTIONS,
    *schedules_ports.COLLECTIONS,
    *templates_ports.COLLECTIONS,
    *data_ports.COLLECTIONS,
    *tracking_ports.COLLECTIONS,
    *registry_ports.COLLECTIONS,
    *serving_ports.COLLECTIONS,
    *quality_ports.COLLECTIONS,
    *functions_ports.COLLECTIONS,
    *triggers_ports.COLLECTIONS,
    *sampling_ports.COLLECTIONS,
    *devices_ports.COLLECTIONS,
    *planning_ports.COLLECTIONS,
)
LOGS = (EVENTS, *tenancy_ports.LOGS, *cost_ports.LOGS, *arrays_ports.LOGS)

# Things that are asked for by an id, which may be shortened: its prefix, and where they are.
KINDS: dict[str, Collection[Any]] = {
    "job": jobs_ports.JOBS,
    "array": arrays_ports.ARRAYS,
    "schedule": schedules_ports.SCHEDULES,
    "run": tracking_ports.RUNS,
    "plan": planning_ports.TIME_PLANS,
    "dataset": data_ports.DATASETS,
    "draft": data_ports.DRAFTS,
    "ep": serving_ports.ENDPOINTS,
    "alert": monitoring_ports.ALERTS,
    "roll": devices_ports.ROLLOUTS,
    "inv": functions_ports.INVOCATIONS,
}
