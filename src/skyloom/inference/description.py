"""A served model in the words of the model configuration extension of the Open Inference Protocol."""

import msgspec

from skyloom.rooms.registry.bundle import Datatype, Signature, TensorSpec
from skyloom.rooms.serving.plan import ServePlan


class ConfiguredTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output; ``dims`` is its shape without the batch."""

    name: str
    data_type: str
    dims: tuple[int, ...]


class InstanceGroup(msgspec.Struct, frozen=True, kw_only=True):
    """How many copies of the model one replica runs, and where."""

    name: str
    kind: str
    count: int = 1


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET /v2/models/{name}/config``."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, dict[str, tuple[int, ...]]]
    max_batch_size: int
    input: tuple[ConfiguredTensor, ...]
    output: tuple[ConfiguredTensor, ...]
    instance_group: tuple[InstanceGroup, ...]
    dynamic_batching: dict[str, int]


def configured(plan: ServePlan, signature: Signature, platform: str) -> ModelConfig:
    """Describe the model of a plan. A version that is no number cannot stand in ``version_policy``, which then is empty."""
    is_numbered = plan.model_version.isascii() and plan.model_version.isdigit()
    versions = (int(plan.model_version[:18]),) if is_numbered else ()
    return ModelConfig(
        name=plan.model,
        platform=platform,
        backend=platform.partition("_")[0],
        version_policy={"specific": {"versions": versions}} if versions else {},
        max_batch_size=plan.limits.max_request_rows,
        input=tuple(_tensor(spec) for spec in signature.inputs),
        output=tuple(_tensor(spec) for spec in signature.outputs),
        instance_group=(InstanceGroup(name=f"{plan.model}_0", kind="KIND_GPU" if plan.gpus else "KIND_CPU"),),
        # Rows are joined only when they already wait; nothing waits for more of them.
        dynamic_batching={"max_queue_delay_microseconds": 0},
    )


def _tensor(spec: TensorSpec) -> ConfiguredTensor:
    return ConfiguredTensor(name=spec.name, data_type=type_name(spec.datatype), dims=spec.shape[1:])


def type_name(datatype: Datatype) -> str:
    """An element type as configurations name it."""
    return "TYPE_STRING" if datatype.value == "BYTES" else f"TYPE_{datatype.value}"
