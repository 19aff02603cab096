"""What gRPC's calls answer beside inference: the server, its model, and what Triton's clients ask of a repository."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from google.protobuf import json_format

from skyloom import __version__
from skyloom.inference.dataplane import EXTENSIONS, SERVER_NAME, DataPlane
from skyloom.inference.wire import open_inference_pb2 as pb
from skyloom.inference.wire.calls import described
from skyloom.inference.wire.repository import LOG_SETTINGS, TRACE_SETTINGS, Repository, check_settings, share

SERVICE = b"/inference.GRPCInferenceService/"


class Method(NamedTuple):
    """One method: the class of its request, and what answers it."""

    request: Any
    answer: Callable[[Any], Any]


def methods(plane: DataPlane) -> dict[bytes, Method]:
    """All methods that take one message and answer at once, by their path."""
    site = _Answers(plane)
    found = {
        "ServerLive": lambda _: pb.ServerLiveResponse(live=True),
        "ServerReady": lambda _: pb.ServerReadyResponse(ready=plane.ready),
        "ServerMetadata": lambda _: pb.ServerMetadataResponse(
            name=SERVER_NAME, version=__version__, extensions=EXTENSIONS
        ),
        "ModelReady": site.model_ready,
        "ModelMetadata": site.model_metadata,
        "ModelConfig": site.model_config,
        "ModelStatistics": site.model_statistics,
        "RepositoryIndex": site.index,
        "RepositoryModelLoad": site.load,
        "RepositoryModelUnload": site.unload,
        "SystemSharedMemoryStatus": lambda _: pb.SystemSharedMemoryStatusResponse(),
        "SystemSharedMemoryRegister": lambda _: share(),
        "SystemSharedMemoryUnregister": lambda _: pb.SystemSharedMemoryUnregisterResponse(),
        "CudaSharedMemoryStatus": lambda _: pb.CudaSharedMemoryStatusResponse(),
        "CudaSharedMemoryRegister": lambda _: share(),
        "CudaSharedMemoryUnregister": lambda _: pb.CudaSharedMemoryUnregisterResponse(),
        "TraceSetting": site.trace_setting,
        "LogSettings": site.log_settings,
    }
    return {SERVICE + name.encode(): Method(getattr(pb, f"{name}Request"), answer) for name, answer in found.items()}


class _Answers:
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._repository = Repository(plane)

    def model_ready(self, message: Any) -> Any:
        guests = self._plane.guests
        if guests is not None and guests.has(message.name):
            return pb.ModelReadyResponse(ready=guests.get(message.name, message.version).failure is None)
        self._plane.check_model(message.name, message.version)
        return pb.ModelReadyResponse(ready=self._plane.ready)

    def model_metadata(self, message: Any) -> Any:
        self._plane.check_model(message.name, message.version)
        return described(self._plane.metadata())

    def model_config(self, message: Any) -> Any:
        self._plane.check_model(message.name, message.version)
        return pb.ModelConfigResponse(config=_written(self._plane.config(), pb.ModelConfig()))

    def model_statistics(self, message: Any) -> Any:
        guests = self._plane.guests
        if not message.name:
            found = self._plane.all_statistics()
        elif guests is not None and guests.has(message.name):
            found = [guests.get(message.name, message.version).statistics()]
        else:
            self._plane.check_model(message.name, message.version)
            found = [self._plane.statistics()]
        told = [msgspec.to_builtins(one) for one in found]
        for one in told:
            del one["memory_usage"], one["response_stats"]  # always empty
        return pb.ModelStatisticsResponse(
            model_stats=[json_format.ParseDict(one, pb.ModelStatistics()) for one in told]
        )

    def index(self, message: Any) -> Any:
        return pb.RepositoryIndexResponse(
            models=[msgspec.to_builtins(model) for model in self._repository.index(message.ready)]
        )

    def load(self, message: Any) -> Any:
        # One of the pack is in memory when this is asked: its site waited for it.
        if message.parameters or message.model_name != self._plane.plan.model:
            self._repository.load(message.model_name, message.parameters)
        return pb.RepositoryModelLoadResponse()

    def unload(self, message: Any) -> Any:
        self._repository.unload(message.model_name)
        return pb.RepositoryModelUnloadResponse()

    def trace_setting(self, message: Any) -> Any:
        if message.model_name:
            self._plane.check_model(message.model_name, "")
        asked = {name: list(value.value) for name, value in message.settings.items()}
        check_settings(asked, {name: _listed(value) for name, value in TRACE_SETTINGS.items()})
        return json_format.ParseDict(
            {"settings": {name: {"value": _listed(value)} for name, value in TRACE_SETTINGS.items()}},
            pb.TraceSettingResponse(),
        )

    def log_settings(self, message: Any) -> Any:
        asked = {name: _choice(value) for name, value in message.settings.items()}
        check_settings(asked, LOG_SETTINGS)
        answer = pb.LogSettingsResponse()
        for name, value in LOG_SETTINGS.items():
            kind = (
                "bool_param"
                if isinstance(value, bool)
                else "uint32_param"
                if isinstance(value, int)
                else "string_param"
            )
            setattr(answer.settings[name], kind, value)
        return answer


def _written(value: msgspec.Struct, message: Any) -> Any:
    return json_format.ParseDict(msgspec.to_builtins(value), message)


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def _choice(value: Any) -> Any:
    kind = value.WhichOneof("parameter_choice")
    return None if kind is None else getattr(value, kind)


def parameters_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A message's parameters as plain values."""
    return {name: _choice(value) for name, value in parameters.items()}
