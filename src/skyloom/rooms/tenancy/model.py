"""Nouns of tenancy: projects, tokens, audit entries, and the operations on them."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from skyloom.core.bounds import Cursor, Id, Limit, Name
from skyloom.core.errors import Denied, NotFound, Unauthenticated
from skyloom.core.operation import Done, Operation, Page, Right, operation
from skyloom.ports.store import Record

DEFAULT_PROJECT = "default"


class NoToken(Unauthenticated):
    """The request shows no token that is known, alive and unrevoked."""


class RightMissing(Denied):
    """The token does not carry the right that the operation needs."""


class ProjectMissing(NotFound):
    """No such project, or the caller has no place in it."""


class Role(enum.StrEnum):
    """A named set of rights; `rules.RIGHTS` is the table."""

    VIEWER = "viewer"
    PREDICTOR = "predictor"
    EDITOR = "editor"
    ADMIN = "admin"
    TASK = "task"


class Project(Record, frozen=True, kw_only=True):
    """A tenant. Its id is its name. Everything else carries the project it belongs to."""

    created_at: float


class Token(Record, frozen=True, kw_only=True):
    """The right to speak as somebody. Only the digest of the secret is kept.

    Attributes:
        project: the project it opens; "*" opens all of them.
        digest: SHA-256 of the secret text.
        expires_at: Unix seconds, or None.
    """

    name: str
    role: Role
    digest: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None


class IssuedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token with its secret, which is shown this once."""

    token: Token
    secret: str


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change, or one refusal. Each entry holds the hash of the one before, so a removed or edited entry shows.

    Attributes:
        request: SHA-256 of the request's canonical JSON, which may hold what nobody else may read; of a secret's, a MAC.
        outcome: "done", or the code of the error that refused it.
    """

    at: float
    principal: str
    project: str
    operation: str
    subject: str
    request: str
    outcome: str
    previous: str
    hash: str


@operation("projects.create", Right.ADMIN, "POST /projects", global_=True)
class CreateProject(Operation[Project], frozen=True, kw_only=True):
    """Make a project: a tenant with its own data, jobs, models, endpoints and tokens."""

    name: Name


@operation("projects.list", Right.READ, "GET /projects", global_=True)
class ListProjects(Operation[Page[Project]], frozen=True, kw_only=True):
    """List the projects that the caller can see."""

    limit: Limit = 100
    cursor: Cursor | None = None


@operation("tokens.create", Right.ADMIN, "POST /tokens")
class CreateToken(Operation[IssuedToken], frozen=True, kw_only=True):
    """Make a token for one project with one role. The answer holds the secret; it is never shown again."""

    name: Name
    role: Role = Role.VIEWER
    ttl_s: Annotated[float, Meta(gt=0, le=10 * 365 * 86_400)] | None = None


@operation("tokens.list", Right.ADMIN, "GET /tokens")
class ListTokens(Operation[Page[Token]], frozen=True, kw_only=True):
    """List the tokens of a project, revoked ones included; never their secrets."""

    limit: Limit = 100
    cursor: Cursor | None = None


@operation("tokens.revoke", Right.ADMIN, "DELETE /tokens/{token_id}")
class RevokeToken(Operation[Done], frozen=True, kw_only=True):
    """Make a token useless from the next request on."""

    token_id: Id


@operation("audit.list", Right.ADMIN, "GET /audit")
class ListAudit(Operation[Page[AuditEntry]], frozen=True, kw_only=True):
    """List audit entries of a project, newest first."""

    limit: Limit = 100


OPERATIONS = (CreateProject, ListProjects, CreateToken, ListTokens, RevokeToken, ListAudit)
