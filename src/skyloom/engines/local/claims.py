"""What live gangs hold of this machine: a rendezvous port each, and GPUs."""

import random
import socket
from collections.abc import Callable, Iterable

from skyloom.engines.local.folder import ShimPlan, TaskFolder

# Below the range that the kernel hands out to outgoing connections, so that none of those can take it first.
_PORTS = range(20_000, 32_000)


class Claims:
    """Ports and GPUs by task. Not thread-safe: the engine's launch lock guards it.

    Args:
        is_over: says of a folder that its task has ended, or is gone.
    """

    def __init__(self, is_over: Callable[[TaskFolder], bool]) -> None:
        self._is_over = is_over
        self._held: dict[str, tuple[TaskFolder, int, tuple[int, ...]]] = {}

    def hold(self, folder: TaskFolder, plan: ShimPlan) -> None:
        """Note what a task of a gang uses."""
        self._held[folder.task_id] = (folder, plan.port, plan.gpus)

    def release_ended(self) -> None:
        """Forget what ended tasks held."""
        self._held = {name: held for name, held in self._held.items() if not self._is_over(held[0])}

    def free_port(self, host: str = "127.0.0.1") -> int:
        """A port of an own address that no live gang has and nobody listens on. Raises ``OSError`` when there is none."""
        taken = {port for _, port, _ in self._held.values()}
        for port in random.sample(_PORTS, 2_000):
            if port not in taken and _is_free(host, port):
                return port
        raise OSError(f"no free port on {host}")

    def free_gpus(self, all_gpus: Iterable[int]) -> tuple[int, ...]:
        """GPUs that no live task uses."""
        taken = {index for _, _, gpus in self._held.values() for index in gpus}
        return tuple(index for index in all_gpus if index not in taken)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
