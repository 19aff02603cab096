"""`Ed25519Signer`: the port over the `cryptography` library, which is imported when the first device is let in."""

from skyloom.core.errors import Unavailable


class SigningUnavailable(Unavailable):
    """The library that signs is not installed."""


class Ed25519Signer:
    """Signs what devices are told to serve."""

    def new_key(self) -> tuple[bytes, bytes]:
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError as error:
            raise SigningUnavailable(
                "Devices need the package cryptography.", next_action="Install it: pip install 'skyloom[local]'."
            ) from error
        key = Ed25519PrivateKey.generate()
        return key.private_bytes_raw(), key.public_key().public_bytes_raw()

    def sign(self, private: bytes, content: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(private).sign(content)
