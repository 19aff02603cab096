"""Requests to the outside over HTTP. A name is resolved once, judged, and the judged address is the one that is connected to, so that a
name server that answers differently the second time gains nothing."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

import httpx

from skyloom.core.errors import InvalidInput, Unavailable
from skyloom.ports.outbound import AddressRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
# Addresses that carry another one inside: what they lead to counts, not how they look.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a name, as the system knows it. Raises ``OSError``."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class OutsideTooLarge(InvalidInput):
    """Somebody outside answers with more than is taken."""


class HttpOutbound:
    """An `Outbound` that refuses loopback, private, link-local, multicast, reserved and metadata addresses.

    Args:
        allowed: hosts, as they are written in an address, that may be reached all the same: the operator says so in a setting.
    """

    def __init__(self, allowed: Sequence[str] = (), resolve: Resolve = resolve) -> None:
        self._allowed = frozenset(host.lower().strip("[]") for host in allowed)
        self._resolve = resolve

    def check(self, url: str) -> None:
        self._where(url)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
        request, host = self._request("POST", url, body, headers)
        try:
            return asyncio.run(_status(request, timeout_s))
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(
                f"{host} does not answer ({type(error).__name__}).", next_action="It is tried again by itself."
            ) from error

    def get(self, url: str, max_bytes: int, timeout_s: float) -> bytes:
        """The body of an answer, guarded like `post`; an answer that redirects, is packed or is no 200 is none.

        Blocks for ``timeout_s`` at most, beside the look-up. Raises `AddressRefused`, `OutsideTooLarge`; `Unavailable` without an answer.
        """
        request, host = self._request("GET", url, b"", {"Accept-Encoding": "identity"})
        try:
            return asyncio.run(_body(request, host, max_bytes, timeout_s))
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(
                f"{host} does not answer ({type(error).__name__}).", next_action="Correct the address, or try again."
            ) from error

    def _request(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[httpx.Request, str]:
        """A request to the judged address, and the host that it is for."""
        parts, address = self._where(url)
        host = parts.hostname or ""
        pinned = httpx.URL(url).copy_with(host=address)
        extensions = {"sni_hostname": host} if parts.scheme == "https" else {}
        sent = {**headers, "Host": parts.netloc}
        return httpx.Request(method, pinned, content=body, headers=sent, extensions=extensions), host

    def _where(self, url: str) -> tuple[SplitResult, str]:
        """The parts of an address, and the one address of its host that was judged and may be connected to."""
        parts = _split(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        literal = _literal(host)
        if literal is not None and not is_public(literal) and host not in self._allowed:
            raise _refused(url, f"{literal} is not an address of the public internet")
        return parts, self._address(url, host, port)

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


async def _body(request: httpx.Request, host: str, max_bytes: int, timeout_s: float) -> bytes:
    """Send a request and return the body of the answer, read no further than ``max_bytes``."""
    async with asyncio.timeout(timeout_s), httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
        answer = await client.send(request, stream=True, follow_redirects=False)
        try:
            if answer.status_code != 200 or "content-encoding" in answer.headers:
                raise Unavailable(
                    f"{host} answers {answer.status_code}, and not with the bytes.", next_action="Correct the address."
                )
            made = bytearray()
            async for part in answer.aiter_raw():
                made += part
                if len(made) > max_bytes:
                    raise OutsideTooLarge(f"{host} answers with more than {max_bytes} bytes.", next_action="Send less.")
            return bytes(made)
        finally:
            await answer.aclose()


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
