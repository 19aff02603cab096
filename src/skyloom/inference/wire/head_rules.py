"""What HTTP/1.1's grammar allows in a request's head and we do not: whatever two servers could read differently. Pure."""

from collections.abc import Mapping

_MAX_LENGTH_DIGITS = 15


def has_body(headers: Mapping[bytes, bytes]) -> bool:
    """True when a body follows the head, by its own words."""
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def head_problem(
    headers: Mapping[bytes, bytes], version: str, upgrades: bool, max_body_bytes: int
) -> tuple[int, str] | None:
    """Status and words for a head that is refused; None for one that may pass.

    Args:
        headers: names in lower case.
        version: of HTTP, as ``1.1``. upgrades: another protocol is asked for.
    """
    length = headers.get(b"content-length", b"0")
    if version not in ("1.1", "1.0"):
        return 400, "Only HTTP/1.1 is spoken here."
    if upgrades:
        return 400, "Upgrades are not spoken here."
    if b"host" not in headers:
        return 400, "The request has no Host header."
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        return 400, "The only transfer encoding is chunked."
    if b"transfer-encoding" in headers and b"content-length" in headers:
        return 400, "A body has one length."
    if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
        return 413 if length.isdigit() else 400, "The content length cannot be meant."
    if int(length) > max_body_bytes:
        return 413, f"The body is larger than {max_body_bytes} bytes."
    if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
        return 417, "The only expectation is 100-continue."
    return None
