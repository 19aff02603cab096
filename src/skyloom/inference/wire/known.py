"""Heads that were read before: what a client sends again and again is not read again."""

from skyloom.inference.wire.messages import Head
from skyloom.inference.wire.site import Site

_MAX_KNOWN = 256
_MAX_KNOWN_BYTES = 2_048


class Known:
    """Heads that were read and admitted before, by their bytes. The same bytes mean the same, so they need not be read again."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._epoch = site.epoch
        self._heads: dict[bytes, tuple[Head, int]] = {}

    def find(self, raw: bytes) -> tuple[Head, int] | None:
        """A head, and the length of the body that follows it."""
        if self._epoch != self._site.epoch:
            self._epoch = self._site.epoch
            self._heads.clear()
        return self._heads.get(raw)

    def keep(self, raw: bytes, url: bytes, head: Head, epoch: int) -> None:
        """Remember a head that was admitted, if it is nothing but a head in its strictest form, and a body of a known length follows.

        Parsers forgive lines before a request and lines that end without a carriage return; then ``raw`` might end elsewhere than the
        head did, and the body of a later request would be cut in another place than a parser cuts it. ``epoch`` is the site's when it
        admitted the head: while the body came in, its token may have been taken back.
        """
        headers = head.headers
        strict = raw.startswith(b"%b %b HTTP/1.1\r\n" % (head.method, url)) and raw.count(b"\n") == raw.count(b"\r\n")
        plain = b"transfer-encoding" not in headers and b"expect" not in headers
        if not epoch == self._epoch == self._site.epoch:
            return
        if len(self._heads) >= _MAX_KNOWN:
            self._heads.clear()  # heads with something of their own in each push out all; who comes again is soon back
        if strict and plain and len(raw) <= _MAX_KNOWN_BYTES and len(self._heads) < _MAX_KNOWN:
            self._heads[raw] = head, int(headers.get(b"content-length", b"0"))
