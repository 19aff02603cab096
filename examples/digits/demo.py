"""The main job, end to end: raw images become a monitored model service, and one answer is traced back to the rows behind it.

    make demo                                    or: python examples/digits/demo.py [--keep] [--home FOLDER]

Every step is what a user would do, through the public SDK; the terminal command that does the same is printed above it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
from dirty_digits import NUM_BROKEN, NUM_COPIES, corrupted, load, write_folder
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import skyloom
from skyloom.inference.wire import open_inference_pb2 as oip
from skyloom.inference.wire.open_inference_pb2_grpc import GRPCInferenceServiceStub
from skyloom.rooms.cost.model import CostBy
from skyloom.rooms.data.making import Deduplicate
from skyloom.rooms.jobs.model import ENDED
from skyloom.rooms.lineage.model import Kind, LineageNode
from skyloom.rooms.monitoring.model import AlertState

DATASET, TARGET = "digits", "label"
SEED = 7
Rows = NDArray[np.uint8]


class Failed(Exception):
    """The demo saw something else than it must."""


class Demo:
    """Runs the steps, keeps their times and figures, and prints both."""

    def __init__(self, home: Path, console: Console) -> None:
        self.home = home
        self.console = console
        self.figures: list[tuple[str, float, str]] = []
        self.cloud: skyloom.Client

    @contextmanager
    def step(self, title: str, command: str) -> Iterator[Callable[[str], None]]:
        """One step; what it is given as figure ends up in the table."""
        self.console.rule(f"[bold]{len(self.figures) + 1}. {title}", align="left", style="dim")
        self.console.print(f"$ {command}", style="cyan", highlight=False)
        began, figure = time.monotonic(), ""

        def note(text: str) -> None:
            nonlocal figure
            figure = text
            self.console.print(f"  {text}", highlight=False)

        yield note
        self.figures.append((title, time.monotonic() - began, figure))

    def table(self) -> Table:
        """Steps, times and figures."""
        table = Table(title="What was done", title_justify="left")
        for name in ("step", "seconds", "figure"):
            table.add_column(name, justify="right" if name == "seconds" else "left")
        for title, seconds, figure in self.figures:
            table.add_row(title, f"{seconds:.1f}", figure)
        table.add_row("all", f"{sum(seconds for _, seconds, _ in self.figures):.1f}", "", style="bold")
        return table

    def must(self, fact: bool, otherwise: str) -> None:
        """Fail, naming what is wrong, unless ``fact`` holds."""
        if not fact:
            raise Failed(otherwise)

    # The steps, in order

    def start(self) -> None:
        with self.step("start the cloud", f"skyloom up --detach --home {self.home}") as note:
            said = terminal("up", "--detach", "--home", str(self.home), "--port", "0", "--json")
            address = str(json.loads(said)["url"])
            self.cloud = skyloom.connect(address, token=(self.home / "token").read_text().strip())
            note(f"the control plane answers at {address}")

    def ingest(self, folder: Path) -> None:
        with self.step("ingest", f"skyloom data create {DATASET} {folder} --skip-bad") as note:
            num_files = write_folder(folder)
            version = self.cloud.data.finish(self.cloud.data.create(DATASET, folder, skip_bad=True), timeout_s=120)
            self.must(version.contents.num_rows == num_files - NUM_BROKEN, f"{version.contents.num_rows} rows came in")
            note(f"{num_files} files, {version.contents.num_rows} images, {NUM_BROKEN} broken files left out and named")

    def clean(self) -> None:
        with self.step("clean", f"skyloom data clean {DATASET} --deduplicate") as note:
            version = self.cloud.data.finish(self.cloud.data.clean(DATASET, Deduplicate()), timeout_s=120)
            self.must(version.contents.num_rows == 5_000, f"{version.contents.num_rows} rows are left")
            note(f"{NUM_COPIES} copies removed, {version.contents.num_rows} images left")

    def split(self) -> None:
        shares = f"--shares 0.8,0,0.2 --stratify {TARGET} --seed {SEED}"
        with self.step("split into a version", f"skyloom data split {DATASET} {shares}") as note:
            draft = self.cloud.data.split(DATASET, train=0.8, validation=0.0, test=0.2, stratify=TARGET, seed=SEED)
            version = self.cloud.data.finish(draft, timeout_s=120)
            self.cloud.data.tag(DATASET, version.number, "ready")
            count = len(self.cloud.data.versions(DATASET).items)
            note(f"version {version.number} of {count}, tagged 'ready'; every row keeps its id")

    def train(self) -> None:
        command = f"skyloom train image --dataset {DATASET} --target {TARGET} --workers 2"
        with self.step("train on 2 workers", command) as note:
            run = self.cloud.trainings.start(
                "image", dataset=DATASET, target=TARGET, workers=2, parameters={"seed": SEED}, memory="2GiB"
            ).run
            self.watch(run.id, run.job_id)
            self.cloud.jobs.finish(run.job_id)
            model = self.cloud.models.version(DATASET)
            self.must(model.evaluation is not None and model.parity is not None, "the model was not evaluated")
            accuracy = model.evaluation.metrics["accuracy"]
            self.must(accuracy >= 0.95, f"the accuracy on held-out digits is {accuracy:.4f}, below 0.95")
            self.cloud.models.alias(DATASET, "champion", model.number)
            note(
                f"accuracy {accuracy:.4f} on {model.evaluation.num_rows} held-out digits; registered as"
                f" {DATASET}:{model.number} 'champion'; ONNX within {model.parity.largest_difference:.1e} of torch"
            )
        self.run_id, self.job_id = run.id, run.job_id

    def watch(self, run_id: str, job_id: str) -> None:
        """Show the loss as it falls."""
        shown = -1
        while self.cloud.jobs.get(job_id).state not in ENDED:
            points = self.cloud.runs.series(run_id, "train/loss", after_step=shown).points
            for point in points:
                if point.step >= shown + 100 and point.value is not None:
                    bar = "█" * max(1, round(min(point.value, 2.4) * 15))
                    self.console.print(f"  step {point.step:>4}  loss {point.value:6.4f}  {bar}", highlight=False)
                    shown = point.step
            time.sleep(0.2)

    def deploy(self) -> None:
        with self.step("deploy 2 replicas", f"skyloom deploy {DATASET}:champion --replicas 2") as note:
            self.cloud.endpoints.deploy(DATASET, "champion", num_replicas=2)
            status = self.cloud.endpoints.wait(DATASET, timeout_s=60)
            note(f"2 replicas answer at {status.url} (REST) and {status.grpc_address} (gRPC)")
        self.endpoint = status

    def held_out(self, pixels: Rows, digits: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
        """The digits that the model has not seen: the version's test split, by the file names that it keeps."""
        chosen = []
        for offset in range(0, len(pixels), 1_000):
            page = self.cloud.data.head(DATASET, limit=1_000, offset=offset)
            path, split = page.columns.index("path"), page.columns.index("split")
            chosen += [int(Path(str(row[path])).stem[-5:]) for row in page.rows if row[split] == "test"]
        shape = self.cloud.models.version(DATASET).manifest.signature.inputs[0].shape
        order = np.random.default_rng(SEED).permutation(chosen)
        return pixels[order].reshape(-1, *shape[1:]), digits[order]

    def predict(self, rows: Rows, digits: NDArray[np.int64]) -> None:
        with self.step("predict over REST and gRPC", f"skyloom predict {DATASET} @rows.json") as note:
            answer = self.cloud.endpoints.predict(DATASET, rows)
            rest = np.array(answer.outputs["probabilities"], dtype=np.float32)
            rpc = self.predict_by_grpc(rows)
            torch_says = self.predict_by_torch(rows)
            gap = max(float(np.abs(said - torch_says).max()) for said in (rest, rpc))
            self.must(gap <= 1e-4, f"the service differs from torch by {gap:.1e}")
            right = int((rest.argmax(1) == digits).sum())
            note(f"{right} of {len(rows)} right; REST and gRPC within {gap:.1e} of the trained torch network")
        self.prediction_id = answer.prediction_id

    def predict_by_grpc(self, rows: Rows) -> NDArray[np.float32]:
        """Ask the other wire, raw tensor bytes in and out."""
        tensor = oip.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=rows.shape)
        ask = oip.ModelInferRequest(model_name=DATASET, inputs=[tensor], raw_input_contents=[rows.tobytes()])
        with grpc.insecure_channel(self.endpoint.grpc_address) as channel:
            token = [("authorization", f"Bearer {(self.home / 'token').read_text().strip()}")]
            said = GRPCInferenceServiceStub(channel).ModelInfer(ask, timeout=30, metadata=token)
        return np.frombuffer(said.raw_output_contents[0], np.float32).reshape(len(rows), -1)

    def predict_by_torch(self, rows: Rows) -> NDArray[np.float32]:
        """What the network itself says, with the weights of the run's newest checkpoint."""
        import torch
        from safetensors.torch import load as load_tensors

        from skyloom.recipes.image_training import ImageNet
        from skyloom.runtime.checkpoint import Checkpoints
        from skyloom.runtime.state import MODEL_FILE

        network = ImageNet(rows.shape[1:], 10, 16)
        newest = Checkpoints(self.home / "shared" / self.job_id / "checkpoints").load_latest()
        self.must(newest is not None, "the run left no checkpoint")
        network.load_state_dict(load_tensors(newest.files[MODEL_FILE]))
        with torch.no_grad():
            return network.eval()(torch.from_numpy(rows.copy())).numpy()

    def healthy_traffic(self, rows: Rows) -> None:
        with self.step("healthy traffic", f"skyloom endpoint monitor {DATASET}") as note:
            sent = self.send(rows, seconds=6)
            monitor = self.cloud.endpoints.monitor(DATASET)
            firing = self.cloud.alerts.list(endpoint=DATASET, state=AlertState.FIRING).items
            self.must(not firing, f"healthy traffic raised an alert: {firing[0].message if firing else ''}")
            p50_s, p99_s = monitor.latency_p50_s or 0.0, monitor.latency_p99_s or 0.0
            latency = f"p50 {p50_s * 1e3:.1f} ms, p99 {p99_s * 1e3:.1f} ms"
            note(f"{sent} images sent, {latency}, no alert")

    def corrupted_traffic(self, rows: Rows) -> None:
        with self.step("a broken camera", f"skyloom alert list --endpoint {DATASET}") as note:
            began, sent = time.monotonic(), 0
            while not (firing := self.cloud.alerts.list(endpoint=DATASET, state=AlertState.FIRING).items):
                self.must(time.monotonic() - began < 60, "inverted, noisy images raised no alert in 60 s")
                sent += self.send(corrupted(rows), seconds=0.5)
            note(f"alert after {time.monotonic() - began:.1f} s and {sent} images: {firing[0].message}")

    def send(self, rows: Rows, seconds: float) -> int:
        """Send random batches for some time; return how many images."""
        chance, sent, end = np.random.default_rng(0), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            batch = rows[chance.integers(0, len(rows), 16)]
            self.cloud.endpoints.predict(DATASET, batch)
            sent += len(batch)
        return sent

    def lineage(self) -> None:
        with self.step("lineage of one answer", f"skyloom lineage {self.prediction_id}") as note:
            lineage = self.cloud.lineage.get(self.prediction_id)
            path = list(_walk(lineage.subject))
            for depth, node in enumerate(path):
                self.console.print(
                    f"  {'  ' * depth}└ {node.kind.value.replace('_', ' ')}: {node.name}", highlight=False
                )
            self.must(
                lineage.rows is not None and bool(lineage.rows.is_proven) and lineage.rows.num_rows == 4_000,
                "the rows behind it are not known",
            )
            row = lineage.rows.row_ids[0]
            forward = [node.name for node in _walk(self.cloud.lineage.row(DATASET, row)) if node.kind is Kind.REVISION]
            self.must(bool(forward), f"row {row} leads to no endpoint")
            note(f"{lineage.rows.num_rows} training rows, proven by their digest; row {row} lives on in {forward[0]}")

    def cost(self) -> None:
        with self.step("cost", "skyloom cost --by job") as note:
            report = self.cloud.costs.get(by=CostBy.JOB)
            note(f"{report.total.cost} in all, metered by the second over {len(report.rows)} jobs")

    def stop(self) -> None:
        with self.step("stop everything", f"skyloom endpoint stop {DATASET}; skyloom down --stop-jobs") as note:
            self.cloud.endpoints.stop(DATASET)
            terminal("down", "--stop-jobs", "--home", str(self.home))
            left = left_running(self.home)
            self.must(not left, f"processes are left: {left}")
            note("no process is left")


def _walk(node: LineageNode) -> Iterator[LineageNode]:
    yield node
    for following in node.next:
        yield from _walk(following)


def terminal(*words: str) -> str:
    """Run a skyloom command. Raises `Failed` with what it said."""
    run = subprocess.run([sys.executable, "-m", "skyloom.cli", *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise Failed(f"skyloom {' '.join(words)} ended with {run.returncode}: {run.stderr.strip()}")
    return run.stdout


def left_running(home: Path) -> list[str]:
    """Processes that still name the folder in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(home) in words and "demo.py" not in words:
            found.append(words.strip())
    return found


def run(demo: Demo, scratch: Path, keep: bool) -> None:
    """All steps in order."""
    pixels, digits = load()
    demo.start()
    demo.ingest(scratch / "digits")
    demo.clean()
    demo.split()
    demo.train()
    demo.deploy()
    rows, truth = demo.held_out(pixels, digits)
    demo.predict(rows[:100], truth[:100])
    demo.healthy_traffic(rows)
    demo.corrupted_traffic(rows)
    demo.lineage()
    demo.cost()
    if not keep:
        demo.stop()


def main() -> int:
    """Run the demo; 0 when every step did what it must."""
    parser = argparse.ArgumentParser(description="The main job, end to end.")
    parser.add_argument("--keep", action="store_true", help="leave the cloud up afterwards")
    parser.add_argument("--home", type=Path, help="folder of the cloud (default: a fresh one)")
    told = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    scratch = Path(tempfile.mkdtemp(prefix="skyloom-demo-"))
    demo = Demo((told.home or scratch / "home").absolute(), console)
    try:
        run(demo, scratch, told.keep)
    except (Failed, skyloom.SkyloomError, TimeoutError) as error:
        console.print(f"[bold red]demo: failed[/]: {error}", highlight=False)
        console.print(f"  the cloud's log: {demo.home / 'control-plane.log'}", highlight=False)
        subprocess.run(
            [sys.executable, "-m", "skyloom.cli", "down", "--stop-jobs", "--home", str(demo.home)], check=False
        )
        return 1
    console.print(demo.table())
    if told.keep:
        console.print(
            f"The cloud is up. Look around, and end it:\n  export SKYLOOM_HOME={demo.home}\n"
            f"  .venv/bin/skyloom status\n  .venv/bin/skyloom down --stop-jobs",
            highlight=False,
            soft_wrap=True,
        )
    else:
        shutil.rmtree(scratch)
    console.print("demo: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
