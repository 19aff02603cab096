"""Secrets from Python: set, list, delete; and how a job asks for them."""

from collections.abc import Iterable, Mapping

from skyloom.core.operation import Done, Page
from skyloom.rooms.secrets import model
from skyloom.rooms.secrets.model import SecretStatus, SecretUse
from skyloom.sdk.transport import Transport

SecretWords = Iterable[str | SecretUse] | Mapping[str, str]


class SecretCalls:
    """``cloud.secrets``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set(self, name: str, value: str) -> SecretStatus:
        """Keep a secret, or replace its value. It is never given back, except to jobs that ask for it."""
        return self._transport.send(model.SetSecret(name=name, value=value))

    def list(self, limit: int = 100, cursor: str | None = None) -> Page[SecretStatus]:
        """List the names of secrets."""
        return self._transport.send(model.ListSecrets(limit=limit, cursor=cursor))

    def delete(self, name: str) -> Done:
        """Forget a secret."""
        return self._transport.send(model.DeleteSecret(name=name))


def secret_uses(secrets: SecretWords) -> tuple[SecretUse, ...]:
    """Names of secrets to have as files, or a mapping of name → variable of the process."""
    if isinstance(secrets, Mapping):
        return tuple(SecretUse(name=name, variable=variable) for name, variable in secrets.items())
    return tuple(one if isinstance(one, SecretUse) else SecretUse(name=one) for one in secrets)
