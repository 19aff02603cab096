"""What user code sees inside a job. Works outside of a job too, as one local process.

    from skyloom.runtime import context, report, steps
    from skyloom.runtime.gang import gang                 # torch.distributed, started and ended in order
    from skyloom.runtime.checkpoint import Checkpoints    # atomic, verified, resumed from by itself
    from skyloom.runtime.fit import FitPlan, fit          # the data-parallel loop of the recipes

This module imports no torch; the ones that do say so by their name above.
"""

from skyloom.runtime.context import Context, context
from skyloom.runtime.loop import steps
from skyloom.runtime.report import deliver, report

__all__ = ["Context", "context", "deliver", "report", "steps"]
