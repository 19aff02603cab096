"""Hosts for tests: network namespaces on a bridge of their own. Needs root and iproute2. Nothing outside of them is reached."""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def why_no_hosts() -> str:
    """Why hosts cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root"
    return "" if shutil.which("ip") else "needs iproute2"


class Hosts:
    """Some hosts that reach each other and nothing else, and the switch between them.

    Args:
        names: of the hosts; the first has the address 10.77.0.1, and so on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"sky{os.getpid()}"
        self.addresses = {name: f"10.77.0.{index}" for index, name in enumerate(names, 1)}
        self._switch = f"{self._prefix}-switch"
        self._namespaces: list[str] = []
        try:
            self._make(self._switch)
            self._in(self._switch, "link", "add", "br0", "type", "bridge")
            self._in(self._switch, "link", "set", "br0", "up")
            for name in names:
                self._plug(name)
        except BaseException:
            self.close()
            raise

    def _make(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._namespaces.append(namespace)
        self._in(namespace, "link", "set", "lo", "up")

    def _plug(self, name: str) -> None:
        namespace = self._namespace(name)
        self._make(namespace)
        self._in(self._switch, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", namespace)
        self._in(self._switch, "link", "set", f"to-{name}", "master", "br0", "up")
        self._in(namespace, "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        self._in(namespace, "link", "set", "eth0", "up")

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _in(self, namespace: str, *words: str) -> None:
        _ip("-n", namespace, *words)

    def words(self, name: str) -> list[str]:
        """Words that run a program on a host when they stand before it."""
        return ["ip", "netns", "exec", self._namespace(name)]

    def cut(self, name: str) -> None:
        """Pull the host's plug out of the switch."""
        self._in(self._switch, "link", "set", f"to-{name}", "down")

    def heal(self, name: str) -> None:
        """Put it back."""
        self._in(self._switch, "link", "set", f"to-{name}", "up")

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Let this thread, and the processes that it starts, be on a host."""
        with Path("/proc/thread-self/ns/net").open() as outside:
            self._enter(Path(f"/run/netns/{self._namespace(name)}"))
            try:
                yield
            finally:
                assert _libc.setns(outside.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def _enter(self, namespace: Path) -> None:
        with namespace.open() as target:
            assert _libc.setns(target.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def close(self) -> None:
        """Remove all of it."""
        for namespace in reversed(self._namespaces):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
