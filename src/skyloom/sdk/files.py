"""Local files on their way to the cloud."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from skyloom.core import digests
from skyloom.core.errors import InvalidInput, NotFound, NotPermitted
from skyloom.sdk.transport import Transport

_CHUNK_BYTES = 2**20


class LocalFileMissing(NotFound):
    """A file on this machine is not there."""


class NotAFile(InvalidInput):
    """Something else than a plain file, where a file is needed."""


def upload_file(transport: Transport, path: Path) -> str:
    """Upload one file unless the cloud has its bytes; return its digest. Raises `LocalFileMissing`, `NotAFile`."""
    digest = digests.of_chunks(read_chunks(path))
    transport.upload(lambda: read_chunks(path), digest)
    return digest


def upload_bytes(transport: Transport, content: bytes) -> str:
    """Upload some bytes; return their digest."""
    digest = digests.of_bytes(content)
    transport.upload(lambda: (content,), digest)
    return digest


def upload_all(transport: Transport, files: Mapping[str, str | Path]) -> dict[str, str]:
    """Upload files, given as path in the cloud → path here; return path in the cloud → digest."""
    return {name: upload_file(transport, Path(path)) for name, path in files.items()}


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a plain file."""
    try:
        if path.exists() and not path.is_file():
            raise NotAFile(f"{path} is not a file.", next_action="Name a plain file.")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise LocalFileMissing(f"There is no file {path}.", next_action="Check the path.") from error
    except PermissionError as error:
        raise NotPermitted(f"{path} may not be read by this user.", next_action="Check its permissions.") from error


def below(folder: Path, patterns: Iterable[str] = ("**/*.py",)) -> dict[str, Path]:
    """The plain files of a folder that match, as path below it → path here."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}
