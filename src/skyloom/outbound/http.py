"""Requests to the outside over HTTP. A name is resolved once, judged, and the judged address is the one that is connected to, so that a
name server that answers differently the second time gains nothing."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

import httpx

from skyloom.core.errors import Unavailable
from skyloom.ports.outbound import AddressRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
# Addresses that carry another one inside: what they lead to counts, not how they look.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a name, as the system knows it. Raises ``OSError``."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class HttpOutbound:
    """An `Outbound` that refuses loopback, private, link-local, multicast, reserved and metadata addresses.

    Args:
        allowed: hosts, as they are written in an address, that may be reached all the same: the operator says so in a setting.
    """

    def __init__(self, allowed: Sequence[str] = (), resolve: Resolve = resolve) -> None:
        self._allowed = frozenset(host.lower().strip("[]") for host in allowed)
        self._resolve = resolve

    def check(self, url: str) -> None:
        parts = _split(url)
        host = parts.hostname or ""
        literal = _literal(host)
        if literal is not None and not is_public(literal) and host not in self._allowed:
            raise _refused(url, f"{literal} is not an address of the public internet")

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
        self.check(url)
        parts = _split(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        address = self._address(url, host, port)
        pinned = httpx.URL(url).copy_with(host=address)
        sent = {**headers, "Host": parts.netloc}
        extensions = {"sni_hostname": host} if parts.scheme == "https" else {}
        request = httpx.Request("POST", pinned, content=body, headers=sent, extensions=extensions)
        try:
            return asyncio.run(_status(request, timeout_s))
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(
                f"{host} does not answer ({type(error).__name__}).", next_action="It is tried again by itself."
            ) from error

    def _address(self, url: str, host: str, port: int) -> str:
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise Unavailable(
                f"The name {host} is not known.", next_action="Correct the address, or wait for its name server."
            ) from error
        if not found:
            raise Unavailable(f"The name {host} has no address.", next_action="Correct the address.")
        if host not in self._allowed:
            for text in found:
                if not is_public(ipaddress.ip_address(text.partition("%")[0])):
                    raise _refused(url, f"{host} leads to {text}, which is not an address of the public internet")
        return found[0]


async def _status(request: httpx.Request, timeout_s: float) -> int:
    """Send a request and return the status of the answer. One limit holds for all of it: who answers a byte at a time holds up nobody."""
    # No proxy, cookie or credential of this machine goes along, and no redirect leads elsewhere.
    async with asyncio.timeout(timeout_s), httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
        answer = await client.send(request, stream=True, follow_redirects=False)
        await answer.aclose()
        return answer.status_code


def is_public(address: Address) -> bool:
    """True for an address that anybody on the internet could reach; what is carried inside of another address counts."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and address.teredo:
            inner = address.teredo[1]
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False  # fec0::/10, which `is_private` does not know
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    return address.is_global and not special and not address.is_link_local and not address.is_private


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port, httpx.URL(url)  # two readers of one address have to agree that it is one
    except (ValueError, httpx.InvalidURL) as error:
        raise _refused(url, str(error)) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _refused(url, "only http and https with a host can be sent to")
    if parts.username is not None or parts.password is not None:
        raise _refused(url, "it names a user, which hides where it leads")
    if any(character.isspace() or ord(character) < 32 for character in url) or "\\" in url:
        raise _refused(url, "it holds characters that hide where it leads")
    return parts


def _literal(host: str) -> Address | None:
    """The address that a host is, in whatever way it is written (``127.1``, ``0x7f000001``); None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _refused(url: str, why: str) -> AddressRefused:
    return AddressRefused(
        f"{url!r} cannot be sent to: {why}.",
        next_action="Give a public address, or have the operator allow the host (SKYLOOM_WEBHOOK_HOSTS).",
    )
