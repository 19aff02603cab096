"""Your own Python from Python: register and deploy a service; ``cloud.endpoints.call`` asks it."""

from pathlib import Path

from skyloom.rooms.registry.model import ModelVersion
from skyloom.rooms.serving.model import EndpointStatus
from skyloom.rooms.serving.offer import CacheRule, LaneRule
from skyloom.rooms.serving.scaling import Autoscaling
from skyloom.rooms.serving.split import CanaryPlan
from skyloom.sdk.files import upload_bytes, upload_file
from skyloom.sdk.packing import Packed, load_service, pack
from skyloom.sdk.secrets import SecretWords
from skyloom.sdk.service import Service
from skyloom.sdk.serving import EndpointCalls
from skyloom.sdk.training import ModelCalls
from skyloom.sdk.transport import Transport


class ServiceCalls:
    """``cloud.services``."""

    def __init__(self, transport: Transport, models: ModelCalls, endpoints: EndpointCalls) -> None:
        self._transport = transport
        self._models = models
        self._endpoints = endpoints

    def register(self, what: str | type[Service], name: str | None = None) -> ModelVersion:
        """Upload a service and register it as a model's next version; the same source again is the version that is there.

        Args:
            what: ``"FILE.py:CLASS"``, or the class.
            name: of the model; the class's name if None.
        """
        packed = self.pack(what)
        return self.register_packed(packed, name or packed.name)

    def register_packed(self, packed: Packed, name: str) -> ModelVersion:
        """Upload a packed service and register it; the same source again is the version that is there."""
        for content in packed.contents.values():
            if isinstance(content, bytes):
                upload_bytes(self._transport, content)
            else:
                upload_file(self._transport, content)
        newest = self._newest(name)
        if newest is not None and newest.manifest == packed.manifest:
            return newest
        return self._models.register(name, packed.manifest)

    def deploy(
        self,
        what: str | type[Service],
        name: str | None = None,
        *,
        num_replicas: int | None = None,
        cpus: float | None = None,
        memory: str | None = None,
        scaling: Autoscaling | None = None,
        cache: CacheRule | None = None,
        lanes: LaneRule | None = None,
        hold: bool = False,
        canary: CanaryPlan | None = None,
        num_gateways: int | None = None,
        secrets: SecretWords | None = None,
    ) -> EndpointStatus:
        """Register a service and serve it, or give a living endpoint this revision. Returns at once; see ``endpoints.wait``."""
        version = self.register(what, name)
        service = load_service(what)[0] if isinstance(what, str) else what
        return self._endpoints.deploy(
            version.model,
            str(version.number),
            name=name,
            num_replicas=num_replicas,
            cpus=service.cpus if cpus is None else cpus,
            memory=service.memory if memory is None else memory,
            scaling=scaling,
            cache=cache,
            lanes=lanes,
            hold=hold,
            canary=canary,
            num_gateways=num_gateways,
            secrets=secrets,
        )

    def pack(self, what: str | type[Service]) -> Packed:
        """A service as a bundle, with the registered models that it names; nothing is uploaded."""
        service = load_service(what)[0] if isinstance(what, str) else what
        models = {}
        for name, reference in service.models.items():
            model, _, version = reference.partition(":")
            models[name] = self._models.version(model, version or "newest")
        return pack(what, models)

    def fetch(self, packed: Packed) -> dict[str, Path | bytes]:
        """All of a packed service's files: those that are here, and those of its models, downloaded."""
        missing = [file for file in packed.manifest.files if file.path not in packed.contents]
        fetched = {file.path: b"".join(self._transport.download(file.digest)) for file in missing}
        return {**packed.contents, **fetched}

    def _newest(self, name: str) -> ModelVersion | None:
        known = [model for model in self._models.list(limit=1_000).items if model.name == name]
        return self._models.version(name) if known else None
