"""A training's whole state as bytes, and back: weights, optimizer, random numbers, position. safetensors and JSON, no pickle."""

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from safetensors.torch import load, save

from skyloom.core.errors import Conflict

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "random.safetensors"
STATE_FILE = "state.json"


class CheckpointMismatch(Conflict):
    """A checkpoint belongs to another training than the one that wants to resume from it."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where a training stands, and what must not change while it goes on.

    Attributes:
        epoch, step_in_epoch: the next batch to work on; ``step`` counts all batches done.
        seed, batch_size, num_rows: decide which rows a batch holds.
        world_size: of the gang that wrote this; another size may resume.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    seed: int
    batch_size: int
    num_rows: int
    world_size: int = 1

    def check_same_walk(self, other: "Position") -> None:
        """Raise `CheckpointMismatch` unless both mean the same rows by the same batch."""
        for name in ("seed", "batch_size", "num_rows"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise CheckpointMismatch(
                    f"The checkpoint was written with {name}={theirs}; this training has {name}={ours}.",
                    next_action="Train in a new job, or give the parameters and the data version that the checkpoint was written with.",
                )


class _State(msgspec.Struct, frozen=True, kw_only=True):
    position: Position
    optimizer: dict[str, Any]


def to_files(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, random_states: list[torch.Tensor], position: Position
) -> dict[str, bytes]:
    """Write a training down. ``random_states`` has one CPU generator state per rank."""
    tensors, rest = _split_optimizer(optimizer.state_dict())
    return {
        MODEL_FILE: save(_plain(model.state_dict())),
        OPTIMIZER_FILE: save(_plain(tensors)),
        RANDOM_FILE: save({f"rank-{rank}": state for rank, state in enumerate(random_states)}),
        STATE_FILE: msgspec.json.encode(_State(position=position, optimizer=rest)),
    }


def read_position(files: Mapping[str, bytes]) -> Position:
    """Where the training stood."""
    return msgspec.json.decode(files[STATE_FILE], type=_State).position


def restore(
    files: Mapping[str, bytes], model: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int
) -> Position:
    """Put a training back, bit for bit; returns its position. Raises `CheckpointMismatch` when the network is another one."""
    state = msgspec.json.decode(files[STATE_FILE], type=_State)
    try:
        model.load_state_dict(load(files[MODEL_FILE]))
        optimizer.load_state_dict(_join_optimizer(load(files[OPTIMIZER_FILE]), state.optimizer))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointMismatch(
            f"The checkpoint does not fit this model: {error}.",
            next_action="Train in a new job after changing the network.",
        ) from error
    random_states = load(files[RANDOM_FILE])
    if f"rank-{rank}" in random_states and state.position.world_size == len(random_states):
        torch.set_rng_state(random_states[f"rank-{rank}"])
    return state.position


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU that share no memory, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _split_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Part ``optimizer.state_dict()`` into its tensors, by ``"<parameter>/<name>"``, and the rest, which is JSON."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            into = tensors if isinstance(value, torch.Tensor) else numbers
            into[f"{index}/{name}"] = value
    return tensors, {"numbers": numbers, "param_groups": state["param_groups"]}


def _join_optimizer(tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **rest["numbers"]}.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    groups = [
        {key: tuple(value) if key == "betas" else value for key, value in group.items()}
        for group in rest["param_groups"]
    ]
    return {"state": state, "param_groups": groups}
