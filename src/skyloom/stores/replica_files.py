"""The files that the control plane and the replicas of one machine share: request logs, lists of accepted tokens, port locks."""

import contextlib
import socket
from pathlib import Path

import msgspec

from skyloom.durable import disk_errors, write_private
from skyloom.rooms.serving.plan import Access
from skyloom.rooms.serving.predictions import MAX_LINE_BYTES, Prediction, locate, log_name, read_line


class LocalReplicaFiles:
    """`rooms.serving.ports.ReplicaFiles` below one folder."""

    def __init__(self, folder: Path) -> None:
        self._logs, self._ports, self._access = folder / "logs", folder / "ports", folder / "access"
        for part in (folder, self._logs, self._ports, self._access):
            part.mkdir(mode=0o700, exist_ok=True)
        self.log_folder, self.port_folder = str(self._logs), str(self._ports)

    def access_path(self, project: str) -> str:
        return str(self._access / f"{project}.json")

    def publish_access(self, project: str, digests: tuple[str, ...]) -> None:
        path = self._access / f"{project}.json"
        content = msgspec.json.encode(Access(digests=digests))
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return
        with disk_errors(path):
            write_private(path, content)

    def read_log(self, replica: str, offset: int) -> bytes:
        return read_log(self._logs, replica, offset)

    def free_port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])


def read_log(folder: Path, replica: str, offset: int) -> bytes:
    """Some bytes of a request log; empty when there is none."""
    with contextlib.suppress(FileNotFoundError), (folder / log_name(replica)).open("rb") as file:
        file.seek(offset)
        return file.read(MAX_LINE_BYTES)
    return b""


def find_prediction(folder: Path, prediction_id: str) -> Prediction:
    """Find one prediction in the logs of a folder. Raises `PredictionIdUnreadable`, `PredictionMissing`."""
    return read_line(prediction_id, read_log(folder, *locate(prediction_id)))
