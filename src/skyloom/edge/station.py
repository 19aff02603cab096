"""The data plane of a device: the same parts as a replica's, on sockets that outlive this process."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from skyloom.core.ids import RandomIds
from skyloom.edge.deployment import Installed
from skyloom.edge.logbook import Logbook
from skyloom.edge.outbox import DeviceOutbox, RecordTooLarge
from skyloom.inference import model as models
from skyloom.inference.access import AccessList
from skyloom.inference.batcher import Batcher
from skyloom.inference.dataplane import DataPlane
from skyloom.inference.model import Model
from skyloom.inference.pace import Pace
from skyloom.inference.runtimes.seam import BundleRefused
from skyloom.inference.tensors import Contract
from skyloom.inference.traffic import TrafficCounter
from skyloom.inference.wire.http import Connections
from skyloom.inference.wire.rest import Rest
from skyloom.rooms.devices.messages import Counted
from skyloom.rooms.serving.plan import Limits, ServePlan
from skyloom.rooms.serving.predictions import REPLICA_PREFIX

_SWEEP_S = 1.0
SMALL = Limits(
    max_connections=128,
    max_request_rows=1_024,
    max_batch_rows=64,
    max_queue_rows=1_024,
    max_queue_bytes=16 * 2**20,
    max_unread_bytes=16 * 2**20,
    drain_s=5.0,
)


def smoke(bundle: Path, manifest: str) -> None:
    """Load a bundle, every byte verified, and run it once on zeros. Raises what a model raises that cannot be served."""
    found = models.verify(bundle, manifest)
    if found.service is not None:
        raise BundleRefused(
            "The bundle is a service with code of its own.",
            next_action="Devices serve models: roll out one without code.",
        )
    model = models.load_verified(bundle, found, 1)
    model.run(model.example(1))
    TrafficCounter(model.profile, model.manifest.signature)


class Station:
    """One served bundle. Make it on the event loop that it will live on."""

    def __init__(
        self,
        made: Installed,
        bundle: Path,
        access_file: Path,
        outbox: DeviceOutbox,
        *,
        device: str,
        threads: int,
        sample_share: float,
    ) -> None:
        self.model: Model = models.load(bundle, threads, made.manifest)
        pace = Pace.measure(self.model.rehearsal, SMALL.max_batch_rows, work=self.model.work_clock)
        signature = self.model.manifest.signature
        self.run_id = RandomIds().new(REPLICA_PREFIX)
        self._outbox = outbox
        self._told = 0
        self.traffic = TrafficCounter(self.model.profile, signature)
        logbook = Logbook(outbox, self.run_id, made.version, signature, sample_share)
        batcher = Batcher(
            self.model,
            pace,
            asyncio.get_running_loop(),
            max_queue_rows=SMALL.max_queue_rows,
            max_queue_bytes=SMALL.max_queue_bytes,
            settle=logbook.write,
            watch=self.traffic.watch,
        )
        plan = _plan(made, device, self.run_id, access_file)
        contract = Contract(signature, SMALL.max_request_rows)
        self.plane = DataPlane(
            plan, contract, batcher, logbook, self.traffic, AccessList(access_file), self.model.platform
        )
        self._rest = Connections(Rest(self.plane), SMALL)
        self._grpc: Any = None
        self._grpc_site: Any = None
        self._servers: list[asyncio.AbstractServer] = []

    async def open(self, listeners: Sequence[socket.socket]) -> None:
        """Answer on sockets that listen already: REST on the first, gRPC on the second if there is one."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._rest.accept, sock=listeners[0]))
        if len(listeners) > 1:
            from skyloom.inference.wire.grpc_site import GrpcSite
            from skyloom.inference.wire.http2 import Http2Connections

            self._grpc_site = GrpcSite(self.plane)
            self._grpc = Http2Connections(self._grpc_site, SMALL)
            self._servers.append(await loop.create_server(self._grpc.accept, sock=listeners[1]))

    async def sweep(self) -> None:
        """Until cancelled, once a second: slow connections are cut, the outbox goes to disk."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._rest.sweep()
            if self._grpc is not None:
                self._grpc.sweep()
                self._grpc_site.look()
            self.plane.access.refresh()
            with contextlib.suppress(OSError):  # the next prediction finds out that the disk takes no more
                await asyncio.to_thread(self._outbox.sync)

    def count(self) -> None:
        """Write down what was seen so far, if it is more than the last time."""
        traffic = self.traffic.snapshot()
        if traffic.requests != self._told:
            counted = Counted(run=self.run_id, at=time.time(), traffic=traffic)
            try:
                self._outbox.write([counted])
            except RecordTooLarge:  # hundreds of features; the sums go all the same
                plain = msgspec.structs.replace(traffic, histograms=())
                self._outbox.write([msgspec.structs.replace(counted, traffic=plain)])
            self._told = traffic.requests

    async def close(self) -> None:
        """Take nothing new, finish what is there, write down what was seen."""
        await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        if self._grpc_site is not None:
            self._grpc_site.drain()
        groups = [group for group in (self._rest, self._grpc) if group is not None]
        for group in groups:
            group.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SMALL.drain_s):
                while any(group.open for group in groups) or not self.plane.is_idle:
                    await asyncio.sleep(0.02)
                    for group in groups:
                        group.sweep()
        self.plane.draining = True
        with contextlib.suppress(OSError):
            self.count()
            self.plane.close()


def _plan(made: Installed, device: str, run_id: str, access_file: Path) -> ServePlan:
    return ServePlan(
        project="edge",
        endpoint=device,
        revision=made.version,
        replica=run_id,
        model=made.model,
        model_version=made.label,
        bundle="",
        manifest=made.manifest,
        access_file=str(access_file),
        log_folder="",
        port_folder="",
        limits=SMALL,
    )
