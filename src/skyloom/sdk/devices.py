"""Devices and roll-outs from Python."""

import time
from collections.abc import Callable, Mapping, Sequence

from skyloom.core.operation import Page
from skyloom.rooms.devices import messages, model
from skyloom.rooms.devices import rollout as nouns
from skyloom.rooms.devices.model import DeviceStatus, EnrolledDevice
from skyloom.rooms.devices.rollout import RolloutState, RolloutStatus
from skyloom.sdk.transport import Transport

_PAUSE_S = 0.5
_OVER = (RolloutState.DONE, RolloutState.ROLLED_BACK)


class DeviceCalls:
    """``cloud.devices``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def enrol(self, name: str, labels: Mapping[str, str] | None = None, *, ttl_s: float = 900.0) -> EnrolledDevice:
        """Let a device in. The answer holds its join code, which is good once and for ``ttl_s``."""
        told = None if labels is None else dict(labels)
        return self._transport.send(model.EnrolDevice(name=name, labels=told, ttl_s=ttl_s))

    def list(
        self, limit: int = 100, cursor: str | None = None, *, label: str = "", state: str | None = None
    ) -> Page[DeviceStatus]:
        """List devices, newest first: those with a label (``site=a``), those in a state (``offline``), or all."""
        of_state = None if state is None else model.DeviceState(state)
        return self._transport.send(model.ListDevices(limit=limit, cursor=cursor, label=label, state=of_state))

    def get(self, name: str) -> DeviceStatus:
        """Show one device by its name or id."""
        return self._transport.send(model.GetDevice(name=name))

    def retire(self, name: str) -> DeviceStatus:
        """Make a device's token useless. Safe to repeat."""
        return self._transport.send(model.RetireDevice(name=name))

    def rotate_key(self, *, overlap_s: float = 7 * 86_400.0) -> messages.RingNotice:
        """Sign with a new key from now on; the old one is good until the overlap is over."""
        return self._transport.send(model.RotateDeviceKey(overlap_s=overlap_s))

    def samples(self, name: str, limit: int = 10, cursor: str | None = None) -> Page[model.SampledInputs]:
        """List inputs that a device sampled, newest first."""
        return self._transport.send(model.ListSamples(name=name, limit=limit, cursor=cursor))

    def gather(self, dataset: str, model_name: str, labels: Mapping[str, str] | None = None) -> model.GatheredSamples:
        """Make a dataset of the inputs that devices (those with these labels) sampled for a model and that are in none yet."""
        ask = model.GatherSamples(dataset=dataset, model=model_name, labels=dict(labels or {}))
        return self._transport.send(ask)

    def join(self, device: str, nonce: str) -> messages.DeviceIdentity:
        """Asked by a device with its join code as its token; ``skyloom edge join`` does it."""
        return self._transport.send(messages.JoinDevice(device=device, nonce=nonce))

    def sync(self, ask: messages.SyncDevice) -> messages.DeviceOrders:
        """Asked by a device about itself; ``skyloom edge run`` does it."""
        return self._transport.send(ask)

    def upload(self, ask: messages.UploadOutbox) -> messages.OutboxTaken:
        """Asked by a device that brings its outbox; ``skyloom edge run`` does it."""
        return self._transport.send(ask)


class RolloutCalls:
    """``cloud.rollouts``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        model_name: str,
        version: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        stages: Sequence[int] = (10, 50, 100),
        pause_s: float = 600.0,
        min_healthy: float = 0.95,
        probation_s: float = 30.0,
        patience_s: float = 3_600.0,
    ) -> RolloutStatus:
        """Bring a model version to the devices that have these labels, some first.

        Args:
            version: number or alias; empty for the newest.
            stages: percent of the devices, growing to 100.
            pause_s: how long a stage has to stay healthy before the next begins.
            min_healthy: share of the devices that tried it which must be healthy, or it goes back.
            probation_s: how long it has to hold on one device.
            patience_s: how long a device that calls may take to say how it fares before it counts as failed.
        """
        ask = nouns.CreateRollout(
            model=model_name,
            version=version,
            labels=dict(labels or {}),
            stages=tuple(stages),
            pause_s=pause_s,
            min_healthy=min_healthy,
            probation_s=probation_s,
            patience_s=patience_s,
        )
        return self._transport.send(ask)

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[RolloutStatus]:
        """List roll-outs, newest first."""
        return self._transport.send(nouns.ListRollouts(limit=limit, cursor=cursor))

    def get(self, rollout_id: str) -> RolloutStatus:
        """Show one roll-out and how far it is."""
        return self._transport.send(nouns.GetRollout(rollout_id=rollout_id))

    def pause(self, rollout_id: str) -> RolloutStatus:
        """Give it to no more devices for now. Safe to repeat."""
        return self._transport.send(nouns.PauseRollout(rollout_id=rollout_id))

    def resume(self, rollout_id: str) -> RolloutStatus:
        """Go on after a pause. Safe to repeat."""
        return self._transport.send(nouns.ResumeRollout(rollout_id=rollout_id))

    def abort(self, rollout_id: str) -> RolloutStatus:
        """Stop it and take its devices back. Safe to repeat."""
        return self._transport.send(nouns.AbortRollout(rollout_id=rollout_id))

    def wait(
        self, rollout_id: str, *, timeout_s: float = 86_400.0, watch: Callable[[RolloutStatus], None] = lambda _: None
    ) -> RolloutStatus:
        """Wait until it is done or has gone back. Raises ``TimeoutError``."""
        deadline = time.monotonic() + timeout_s
        while (status := self.get(rollout_id)).rollout.state not in _OVER:
            watch(status)
            if time.monotonic() > deadline:
                raise TimeoutError(f"roll-out {rollout_id} is still {status.rollout.state.value}")
            time.sleep(_PAUSE_S)
        watch(status)
        return status
