"""Nouns of secrets. A value goes in and never comes out again, except into the process of a job."""

from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cursor, Limit
from skyloom.core.errors import InvalidInput, NotFound
from skyloom.core.operation import Done, Operation, Page, Right, operation
from skyloom.ports.store import Record

SecretName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$(?!\n)",
        max_length=64,
        description="Lower-case letters, digits and dashes.",
    ),
]
SecretValue = Annotated[str, Meta(min_length=1, max_length=65_536, pattern=r"^[^\x00]*$")]
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)", max_length=200)]


class SecretMissing(NotFound):
    """No such secret in this project."""


class SecretMisused(InvalidInput):
    """A job asks for a secret in a way that cannot be meant."""


class SecretUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a job gets a secret: as a file that only it can read, or as a variable of its process.

    Attributes:
        variable: name of the variable; empty for a file, to which ``SKYLOOM_SECRET_<NAME>_FILE`` points (dashes become underscores).
    """

    name: SecretName
    variable: Variable | None = None


class DataKey(Record, frozen=True, kw_only=True):
    """The key of one project's secrets, itself sealed with the master key, which is in a file of its own. Its id is the project."""

    sealed: bytes
    created_at: float


class Secret(Record, frozen=True, kw_only=True):
    """A secret as it is kept.

    Attributes:
        number: 1 when it was set first, and one more each time it was set again.
        sealed: the value, sealed with the project's key for this very secret and number.
    """

    name: str
    number: int
    sealed: bytes
    set_at: float
    set_by: str


class SecretStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What may be told of a secret."""

    name: str
    number: int
    set_at: float
    set_by: str


@operation("secrets.set", Right.RUN, "PUT /secrets/{name}", private=True)
class SetSecret(Operation[SecretStatus], frozen=True, kw_only=True):
    """Keep a secret, or replace its value. Jobs that start from now on get the new one; those that run keep theirs."""

    name: SecretName
    value: SecretValue


@operation("secrets.list", Right.READ, "GET /secrets")
class ListSecrets(Operation[Page[SecretStatus]], frozen=True, kw_only=True):
    """List the names of secrets, newest first; never their values."""

    limit: Limit = 100
    cursor: Cursor | None = None


@operation("secrets.delete", Right.RUN, "DELETE /secrets/{name}")
class DeleteSecret(Operation[Done], frozen=True, kw_only=True):
    """Forget a secret. Jobs that run keep it until they end; those that wait for their start fail."""

    name: SecretName


OPERATIONS = (SetSecret, ListSecrets, DeleteSecret)
