"""The words of the terminal: one row each. A module is imported when its word is used, so that help comes at once.

A module offers ``app``, a `typer.Typer` made by `frame.word` (one command) or `frame.words` (a noun with verbs).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One word: where it lives, and its line in the help."""

    name: str
    module: str
    help: str


TABLE = (
    Row("up", "skyloom.cli.up", "Start the cloud on this machine."),
    Row("down", "skyloom.cli.down", "Stop the control plane; jobs go on running."),
    Row("status", "skyloom.cli.status", "Show the cloud: address, capacity, what runs."),
    Row("doctor", "skyloom.cli.doctor", "Check this machine and say what to mend."),
    Row("why", "skyloom.cli.why", "Explain why something is in its state."),
    Row("data", "skyloom.cli.data", "Datasets: create, clean, show, versions."),
    Row("train", "skyloom.cli.train", "Train a model on a dataset."),
    Row("plan", "skyloom.cli.plan", "Predict time and cost of a training; choose its workers."),
    Row("run", "skyloom.cli.run", "Training runs: list, show, metrics."),
    Row("model", "skyloom.cli.model", "Models: list, show."),
    Row("deploy", "skyloom.cli.deploy", "Serve a model, or a service of your own Python."),
    Row("serve", "skyloom.cli.serve", "Try a service of your own Python on this machine."),
    Row("function", "skyloom.cli.function", "Functions: deploy a file, call it now or later, dead letters."),
    Row("trigger", "skyloom.cli.trigger", "Triggers: when this happens, run that."),
    Row("predict", "skyloom.cli.predict", "Ask an endpoint, or predict a whole dataset."),
    Row("endpoint", "skyloom.cli.endpoint", "Endpoints: list, show, stop, split traffic, roll back."),
    Row("feedback", "skyloom.cli.feedback", "Say what was true of rows that an endpoint has answered."),
    Row("device", "skyloom.cli.device", "Devices: enrol, list, show, retire."),
    Row("edge", "skyloom.cli.edge", "On a small device: join a cloud, serve offline, report when connected."),
    Row("rollout", "skyloom.cli.rollout", "Bring a model to devices by stages: create, status, abort."),
    Row("alert", "skyloom.cli.alert", "Alerts: list, acknowledge."),
    Row("webhook", "skyloom.cli.webhook", "Webhooks: create, list, delete."),
    Row("lineage", "skyloom.cli.lineage", "Follow a prediction back to its rows, or a row forward."),
    Row("cost", "skyloom.cli.cost", "What was used, and what it cost."),
    Row("budget", "skyloom.cli.budget", "Budgets: set, list, show, delete."),
    Row("price", "skyloom.cli.price", "Prices of pools: set, list."),
    Row("simulate", "skyloom.cli.simulate", "Play a trace of jobs on imagined machines."),
    Row("simulate-autoscale", "skyloom.cli.simulate_autoscale", "Play a log of requests on imagined replicas."),
    Row("job", "skyloom.cli.job", "Jobs: run, list, show, logs, cancel, rerun."),
    Row("array", "skyloom.cli.array", "Arrays: one job many times over."),
    Row("apply", "skyloom.cli.apply", "Make the jobs, arrays and schedules that a file describes."),
    Row("secret", "skyloom.cli.secret", "Secrets of a project: set, list, delete."),
    Row("pool", "skyloom.cli.pool", "Pools of machines: add, list, show, remove."),
    Row("scheduler", "skyloom.cli.scheduler", "Whose turn it is: show, set."),
    Row("schedule", "skyloom.cli.schedule", "Schedules: jobs that begin by the clock."),
    Row("notebook", "skyloom.cli.notebook", "JupyterLab as a job, in this machine's browser."),
    Row("export", "skyloom.cli.export", "Files that serve an endpoint without this cloud."),
    Row("manifest", "skyloom.cli.manifest", "Files that put Skyloom on Kubernetes."),
    Row("project", "skyloom.cli.project", "Projects: create, list, quota."),
    Row("token", "skyloom.cli.token", "Tokens: create, list, revoke."),
    Row("audit", "skyloom.cli.audit", "The newest entries of the audit log."),
)
