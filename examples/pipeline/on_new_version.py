"""When a dataset has a new version: look at it, and predict all of its rows if it is good.

Deployed as a function and set off by a trigger (see README.md). It acts with a token of its own, which it is given as a secret.
"""

import os

import skyloom

MODEL = os.environ.get("PIPELINE_MODEL", "toy")
TO = "said"
MOST_REJECTED = 0.2


def on_new_version(event: skyloom.TriggerEvent) -> dict:
    """Predict the version that the event tells of. Told twice, it does it once: the event's id is the key."""
    dataset, version = event.facts["dataset"], event.facts["version"]
    with skyloom.connect(token=os.environ["PIPELINE_TOKEN"]) as cloud:
        contents = cloud.data.version(dataset, version).contents
        rejected = contents.num_rejects / max(1, contents.num_rows + contents.num_rejects)
        print(f"{dataset} version {version}: {contents.num_rows} rows, {rejected:.0%} rejected", flush=True)
        if rejected > MOST_REJECTED:
            return {"predicted": False, "why": f"{rejected:.0%} of the rows were rejected"}
        draft = cloud.predictions.run(dataset, MODEL, TO, version=version, key=event.id)
    return {"predicted": True, "job": draft.draft.job_id}
