"""The folder of a device, and joining.

device.json       who it is: cloud, project, id, token, the keys that it trusts   (private)
deployment.json   what it serves, and what it served before
bundles/          one folder a bundle, named by the digest of its manifest
outbox/           what it has to tell
token             what programs on this machine show to ask for predictions        (private)
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.errors import Conflict, InvalidInput
from skyloom.durable import disk_errors, make_folder, write_private
from skyloom.edge.deployment import Deployment
from skyloom.edge.link import CloudLink, LinkDown
from skyloom.edge.trust import follow
from skyloom.rooms.devices.messages import JoinDevice, RingNotice
from skyloom.rooms.serving.plan import Access

_CODE_PREFIX = "sky_join."


class NotJoined(Conflict):
    """The folder belongs to no device yet."""


class JoinedAlready(Conflict):
    """The folder belongs to a device."""


class CodeUnreadable(InvalidInput):
    """The text is no join code."""


class HomeInUse(Conflict):
    """Another process serves from this folder."""


class DeviceFile(msgspec.Struct, frozen=True, kw_only=True):
    """Who this device is, and whom it believes."""

    url: str
    authority: str = ""
    proxy: str = ""
    project: str
    device: str
    name: str
    token: str
    ring: RingNotice


class _Joining(msgspec.Struct, frozen=True):
    """What is written down before the first question, so that a lost answer can be asked for again."""

    code_digest: str
    nonce: Annotated[str, Meta(max_length=64)]


class Home:
    """One device's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundles = folder / "bundles"
        self.outbox = folder / "outbox"
        self.deployment = folder / "deployment.json"
        self.token_file = folder / "token"
        self.access_file = folder / "access.json"
        self._device = folder / "device.json"
        self._ports = folder / "ports"
        self._lock: int | None = None

    def make(self) -> None:
        """Make the folders, the token of this machine's programs, and the list that it stands in."""
        with disk_errors(self.folder):
            if not self.folder.exists():
                make_folder(self.folder)
                self.folder.chmod(0o700)
            make_folder(self.bundles)
            with self._alone():  # the list has to name the token that is there in the end
                if not self.token_file.exists():
                    write_private(self.token_file, f"sky_edge_{secrets.token_urlsafe(24)}\n".encode())
                digest = hashlib.sha256(self.token_file.read_bytes().strip()).hexdigest()
                write_private(self.access_file, msgspec.json.encode(Access(digests=(f"sha256:{digest}",))))

    def hold(self) -> None:
        """Take the folder for this process alone, until it ends. Raises `HomeInUse`."""
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise HomeInUse(
                f"Another process serves from {self.folder}.", next_action="Stop it, or choose another --home."
            ) from None

    def read(self) -> DeviceFile:
        """Who this is. Raises `NotJoined`."""
        try:
            return msgspec.json.decode(self._device.read_bytes(), type=DeviceFile)
        except (OSError, msgspec.MsgspecError) as error:
            raise NotJoined(
                f"{self.folder} belongs to no device yet.",
                next_action="Ask for a code (skyloom device enrol NAME), then: skyloom edge join CODE --url ADDRESS.",
            ) from error

    def write(self, file: DeviceFile) -> None:
        """Keep who this is."""
        write_private(self._device, msgspec.json.encode(file))

    def replace(self, before: DeviceFile, after: DeviceFile) -> DeviceFile:
        """Keep ``after`` unless somebody joined this folder anew meanwhile; returns who this is then."""
        with self._alone():
            now_is = self.read()
            if now_is != before:
                return now_is
            self.write(after)
            return after

    def write_ports(self, ports: Sequence[int]) -> None:
        """Tell whoever looks where this device listens."""
        write_private(self._ports, (" ".join(map(str, ports)) + "\n").encode())

    def ports(self) -> str:
        """Where it listened last, as numbers with blanks between; "" before it ever did."""
        try:
            return self._ports.read_text().strip()
        except FileNotFoundError:
            return ""

    def outbox_bytes(self) -> int:
        """What the outbox holds. Segments that go while they are counted are not."""
        found = 0
        for path in self.outbox.glob("*/*.seg"):
            with contextlib.suppress(FileNotFoundError):
                found += path.stat().st_size
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes who this is, or its token: whoever joins, runs or follows new keys does so one after the other."""
        lock = os.open(self.folder / "identity.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def join(self, code: str, url: str, *, authority: str = "", proxy: str = "", again: bool = False) -> DeviceFile:
        """Trade a code for an identity. The same code may be tried again after a lost answer.

        Raises `CodeUnreadable`, `AddressUnreadable`, `AuthorityUnreadable`, `JoinedAlready`, `LinkDown`, and what the cloud refuses
        with.
        """
        project, device = _parts_of(code)
        link = CloudLink(url, project, code, authority=authority, proxy=proxy)
        self.make()
        with self._alone():
            if self._device.exists() and not again:
                raise JoinedAlready(
                    f"{self.folder} is device {self.read().name} already.",
                    next_action="Choose another --home, or join it anew with --again; what it has not told yet stays.",
                )
            identity = link.ask(JoinDevice(device=device, nonce=self._nonce(code)))
            ring = follow(None, identity.rings[-1:], identity.project)
            if ring is None:
                raise LinkDown(
                    f"What answers at {url} told no keys.",
                    next_action="Check the address; a proxy may have changed the answer.",
                )
            made = DeviceFile(
                url=url,
                authority=authority,
                proxy=proxy,
                project=identity.project,
                device=identity.device,
                name=identity.name,
                token=identity.token,
                ring=ring,
            )
            self.write(made)
            (self.folder / "joining.json").unlink(missing_ok=True)
            return made

    def _nonce(self, code: str) -> str:
        path, digest = self.folder / "joining.json", hashlib.sha256(code.encode()).hexdigest()
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=_Joining)
        except (OSError, msgspec.MsgspecError):
            kept = None
        if kept is None or kept.code_digest != digest:
            kept = _Joining(digest, secrets.token_hex(16))
            write_private(path, msgspec.json.encode(kept))
        return kept.nonce


def load_deployment(path: Path) -> Deployment:
    """What is served, as it stands on disk; nothing when nothing ever was.

    A file that went bad is as good as none, and says so: the cloud tells again what to serve, and the bundle is still here.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Deployment)
    except FileNotFoundError:
        return Deployment()
    except msgspec.MsgspecError:
        return Deployment(message=f"{path.name} went bad on this disk; the cloud is asked what to serve.")


def _parts_of(code: str) -> tuple[str, str]:
    parts = code.removeprefix(_CODE_PREFIX).rsplit(".", 2)
    if (
        not code.startswith(_CODE_PREFIX)
        or len(parts) != 3
        or not (code.isascii() and code.isprintable())
        or len(code) > 400
    ):
        raise CodeUnreadable(
            "That is no join code.", next_action="Take the whole of what `skyloom device enrol NAME` shows: sky_join.…"
        )
    return parts[0], parts[1]
