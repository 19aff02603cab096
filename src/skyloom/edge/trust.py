"""Whose signatures a device believes. The only file that knows a library for it.

PyNaCl checks Ed25519 (RFC 8032) and takes 4 MB; the library that the cloud signs with takes 15.
"""

import nacl.exceptions
import nacl.signing

from skyloom.core.errors import InvalidInput
from skyloom.rooms.devices.messages import Assignment, RingKey, RingNotice, assignment_statement, ring_statement


class SignatureRefused(InvalidInput):
    """Something that should be signed by the cloud is not. Nothing of it is used."""


def follow(known: RingNotice | None, rings: tuple[RingNotice, ...], project: str) -> RingNotice | None:
    """The newest ring that can be reached from the one that is known, each signed by a key of the one before.

    The first one of all is believed because of how it came: as the answer to a join code. Raises `SignatureRefused`.
    """
    for ring in rings:
        if known is not None and ring.number <= known.number:
            continue
        trusted = ring.keys if known is None else known.keys
        content = ring_statement(ring.project, ring.number, ring.keys)
        follows = known is None or ring.number == known.number + 1
        if ring.project != project or not follows or not _holds(trusted, ring.signed_by, content, ring.signature):
            raise SignatureRefused(
                f"Ring {ring.number} of keys is not signed by a key of the ring before.",
                next_action="Join the device anew if the cloud's keys were changed by its owner; else somebody is in between.",
            )
        known = ring
    return known


def check_assignment(ring: RingNotice, device: str, told: Assignment) -> None:
    """Raise `SignatureRefused` unless an assignment was signed for this device by a key that is trusted."""
    if not _holds(ring.keys, told.signed_by, assignment_statement(device, told), told.signature):
        raise SignatureRefused(
            f"What the device is told to serve (number {told.number}) is not signed by a key that it trusts.",
            next_action="Nothing of it is used. Join the device anew if the cloud's keys were changed.",
        )


def _holds(keys: tuple[RingKey, ...], key_id: str, content: bytes, signature: str) -> bool:
    key = next((key for key in keys if key.id == key_id), None)
    if key is None:
        return False
    try:
        nacl.signing.VerifyKey(bytes.fromhex(key.public)).verify(content, bytes.fromhex(signature))
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError, ValueError):
        return False
    return True
