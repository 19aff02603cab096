"""The gang: N processes that compute one thing together. Starts torch.distributed from the standard variables and ends it in order."""

import contextlib
import datetime
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist

# Keeps the group of its moment as a default argument. Imported later (torch's optimisers do), it would hold our group, and with it
# the threads of gloo, beyond the end of Python: a thread that then wants Python aborts a program that has done all its work.
import torch.distributed.nn.functional

from skyloom.core.errors import InvalidInput, Unavailable
from skyloom.runtime.context import Context, context
from skyloom.settings import local_rank, rendezvous

_PAUSE_S = 0.005


class NoGpu(InvalidInput):
    """A GPU was asked for and there is none."""


class PeerLost(Unavailable):
    """Another worker of the gang is gone, or does not answer."""


class Gang:
    """This process and its siblings. With one process every collective is a no-op.

    Attributes:
        rank, world_size: place in the gang.
        device: where this rank computes.
        stop_asked: set once this process got SIGTERM: finish the step, write a checkpoint, leave.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.stop_asked = False

    @property
    def is_first(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    def add_up(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its sum over all ranks, in place. All ranks must call."""
        if self.world_size > 1:
            with _together():
                dist.all_reduce(tensor, op=dist.ReduceOp.SUM)

    def copy_from_first(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by rank 0's, in place. All ranks must call."""
        if self.world_size > 1:
            with _together():
                dist.broadcast(tensor, src=0)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """One tensor of equal shape from every rank, in rank order, on every rank. All ranks must call."""
        if self.world_size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with _together():
            dist.all_gather(parts, tensor)
        return parts

    def wait(self) -> None:
        """Return when all ranks have called."""
        self.add_up(torch.zeros(1, device=self.device))


@contextlib.contextmanager
def gang(device: str = "auto", timeout_s: float = 600, threads: int | None = None) -> Iterator[Gang]:
    """Join the gang for the length of a ``with`` block.

    Args:
        device: ``cpu``, ``cuda`` or ``auto`` (a GPU when this rank has one). gloo connects CPUs, nccl GPUs.
        timeout_s: a collective that waits longer raises: a sibling hangs. One that died is noticed at once.
        threads: CPU threads of this rank; None leaves torch's choice. A gang on one machine wants 1 to a rank.

    Raises `NoGpu`, `PeerLost`. An error inside the block ends the group without waiting for the others, which then fail too.
    """
    here = context()
    place = _device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    elif here.world_size > 1:
        torch.set_num_threads(1)
    _join(here, place, timeout_s)
    members = Gang(here.rank, here.world_size, place)
    with _noticing_sigterm(members):
        try:
            yield members
            members.wait()
        finally:
            if here.world_size > 1:
                dist.destroy_process_group()


def _join(here: Context, place: torch.device, timeout_s: float) -> None:
    if here.world_size > 1:
        if here.rank > 0:
            _await_first(timeout_s)
        with _together():
            dist.init_process_group(
                "nccl" if place.type == "cuda" else "gloo",
                init_method="env://",
                rank=here.rank,
                world_size=here.world_size,
                timeout=datetime.timedelta(seconds=timeout_s),
            )


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """torch says by a plain RuntimeError of many lines that a peer went away."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            f"Another worker of the gang is gone or does not answer ({str(error).partition(chr(10))[0][:200]}).",
            next_action="Look at the worker that ended first: skyloom job show.",
        ) from error


def _await_first(timeout_s: float) -> None:
    """Wait until rank 0 listens. torch would find out too, but its pause after a first refusal is up to a second."""
    address, deadline = rendezvous(), time.monotonic() + timeout_s
    while address is not None and time.monotonic() < deadline:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError:
            time.sleep(_PAUSE_S)


def _device(name: str) -> torch.device:
    has_gpu = torch.cuda.is_available() and torch.cuda.device_count() > local_rank()
    if name == "cuda" and not has_gpu:
        raise NoGpu(
            f"device is cuda, and this worker sees {torch.cuda.device_count()} GPUs.",
            next_action="Ask for GPUs in the job's resources, install a CUDA build of torch, or use device=cpu.",
        )
    if name not in {"auto", "cpu", "cuda"}:
        raise InvalidInput(f"device is {name!r}.", next_action="Use auto, cpu or cuda.")
    if name == "cpu" or not has_gpu:
        return torch.device("cpu")
    place = torch.device("cuda", local_rank())
    torch.cuda.set_device(place)
    return place


@contextlib.contextmanager
def _noticing_sigterm(members: Gang) -> Iterator[None]:
    def note(_signal: int, _frame: FrameType | None) -> None:
        members.stop_asked = True

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not on the main thread: the caller keeps its own handling
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
