"""Projects, tokens and the audit log."""

from skyloom.core.operation import Done, Page
from skyloom.rooms.tenancy import model
from skyloom.sdk.transport import Transport


class ProjectCalls:
    """``cloud.projects``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str) -> model.Project:
        """Make a project. Raises `AlreadyExists`."""
        return self._transport.send(model.CreateProject(name=name))

    def list(self, limit: int = 100, cursor: str | None = None) -> Page[model.Project]:
        """List the projects that this token can see."""
        return self._transport.send(model.ListProjects(limit=limit, cursor=cursor))


class TokenCalls:
    """``cloud.tokens``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str, role: model.Role = model.Role.VIEWER, ttl_s: float | None = None) -> model.IssuedToken:
        """Make a token for this project; its secret is in the answer and nowhere else."""
        return self._transport.send(model.CreateToken(name=name, role=role, ttl_s=ttl_s))

    def list(self, limit: int = 100, cursor: str | None = None) -> Page[model.Token]:
        """List this project's tokens."""
        return self._transport.send(model.ListTokens(limit=limit, cursor=cursor))

    def revoke(self, token_id: str) -> Done:
        """Make a token useless from now on."""
        return self._transport.send(model.RevokeToken(token_id=token_id))


class AuditCalls:
    """``cloud.audit``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, limit: int = 100) -> Page[model.AuditEntry]:
        """List the newest audit entries of this project."""
        return self._transport.send(model.ListAudit(limit=limit))
