"""``python -m skyloom.inference.tokens ACCESS.json``: make one more token that may predict at an exported model, and print it once.

The file keeps its digest only. A token is taken away by removing its digest from the file; a running server reads it again within a second.
"""

import hashlib
import secrets
import sys
from pathlib import Path

import msgspec

from skyloom.durable import write_private
from skyloom.rooms.serving.plan import Access

_PREFIX = "sky_"


def add_token(path: Path) -> str:
    """Add the digest of a new token to the list; returns the token. Raises ``OSError``, ``msgspec.MsgspecError``."""
    known = msgspec.json.decode(path.read_bytes(), type=Access).digests if path.exists() else ()
    token = _PREFIX + secrets.token_urlsafe(32)
    digest = "sha256:" + hashlib.sha256(token.encode()).hexdigest()
    write_private(path, msgspec.json.encode(Access(digests=(*known, digest))))
    path.chmod(0o644)  # digests are no secret, and a container reads them as another user
    return token


def main(arguments: list[str]) -> int:
    """Print a new token; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m skyloom.inference.tokens ACCESS.json", file=sys.stderr)
        return 64
    try:
        print(add_token(Path(arguments[0])))
    except (OSError, msgspec.MsgspecError) as error:
        print(f"The list of tokens {arguments[0]} cannot be used: {error}.", file=sys.stderr)
        return 73
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
