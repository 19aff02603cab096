"""The service of tenancy: knows tokens, keeps the audit chain."""

from collections.abc import Callable
from typing import Any

import msgspec

from skyloom.core import digests
from skyloom.core.errors import NotFound
from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Done, Operation, Page, Right
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.lookup import listed, owned
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.tenancy import model, rules
from skyloom.rooms.tenancy.ports import AUDIT, PROJECTS, REPLAYS, TOKENS

_REPLAY_AGE_S = 7 * 86_400.0
_REPLAYS_AT_ONCE = 500
_LOOK_S = 3_600.0


class TokenMissing(NotFound):
    """No such token in this project."""


class Tenancy:
    """Projects, tokens, audit.

    Args:
        key: secret of this installation; the secrets of all tokens are made from it.

    Attributes:
        project_of_live_task: set by the composition root; answers from the jobs room, which tenancy cannot import,
            whether a task may still speak, and for which project.
        project_of_device, project_of_code: the same of a device (its id and the generation of its token) and of a join code (the
            device's id and the code's digest); the devices room answers.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids, key: bytes) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._key = key
        self._look_at = 0.0
        self.project_of_live_task: Callable[[str], str | None] = lambda _task_id: None
        self.project_of_device: Callable[[str, int], str | None] = lambda _device_id, _generation: None
        self.project_of_code: Callable[[str, str], str | None] = lambda _device_id, _digest: None

    def handlers(self) -> Handlers:
        return {
            model.CreateProject: Change(self.create_project),
            model.ListProjects: Query(self.list_projects),
            model.CreateToken: Change(self.create_token, kept=_without_secret, shown=self._with_secret),
            model.ListTokens: Query(self.list_tokens),
            model.RevokeToken: Change(self.revoke_token),
            model.ListAudit: Query(self.list_audit),
        }

    def authenticate(self, secret: str, project: str) -> Caller:
        """Return who speaks. Raises `NoToken`, `ProjectMissing`."""
        if secret.startswith("sky_task."):
            return self._task_caller(secret, project)
        if secret.startswith(("sky_device.", "sky_join.")):
            return self._device_caller(secret, project)
        digest = digests.of_bytes(secret.encode("utf-8", "surrogatepass"))
        found, known = self._store.read(
            lambda view: (view.select(TOKENS, {"digest": digest}, limit=1), project and view.get(PROJECTS, project))
        )
        caller = rules.caller(found[0] if found else None, project, self._clock.now())
        if known is None:
            raise rules.project_missing(project)
        return caller

    def _task_caller(self, secret: str, project: str) -> Caller:
        task_id = rules.task_of_secret(self._key, secret)
        home = self.project_of_live_task(task_id) if task_id else None
        if task_id is None or home is None:
            return rules.caller(None, project, 0)
        if project not in ("", home):
            raise rules.project_missing(project)
        return Caller(
            principal=task_id, project=project, scope=home, rights=rules.RIGHTS[model.Role.TASK], task_id=task_id
        )

    def _device_caller(self, secret: str, project: str) -> Caller:
        """A device, or who holds its join code. Each may do nothing else than what its one right is for."""
        told = rules.device_of_secret(self._key, secret) if secret.startswith("sky_device.") else None
        if told is not None:
            device_id, rights, home = told[0], rules.DEVICE_RIGHTS, self.project_of_device(*told)
        else:
            device_id, rights = rules.device_of_code(secret), rules.JOIN_RIGHTS
            digest = digests.of_bytes(secret.encode("utf-8", "surrogatepass"))
            home = self.project_of_code(device_id, digest) if device_id else None
        if home is None:
            return rules.caller(None, project, 0)
        if project not in ("", home):
            raise rules.project_missing(project)
        return Caller(principal=device_id, project=project, scope=home, rights=rights, device_id=device_id)

    def device_secret(self, device_id: str, generation: int) -> str:
        """The token that a device is given when it joins."""
        return rules.device_secret(self._key, device_id, generation)

    def join_code(self, project: str, device_id: str, enrolment: int) -> str:
        """The code that a device joins with, once."""
        return rules.join_code(self._key, project, device_id, enrolment)

    def task_secret(self, task_id: str) -> str:
        """The token that a task is given at launch."""
        return rules.task_secret(self._key, task_id)

    def predictors(self, view: Snapshot, project: str, names: frozenset[str] | None = None) -> tuple[str, ...]:
        """Digests of the tokens that may predict in a project now, or of those of some names; for the model servers, which never ask
        this room."""
        found = view.select(TOKENS, {"project": (project, rules.ALL_PROJECTS)})
        named = [token for token in found if names is None or token.name in names]
        allowed = tuple(token.digest for token in named if rules.may_predict(token, self._clock.now()))
        return allowed if names is not None else (digests.of_bytes(self.invoker_secret(project).encode()), *allowed)

    def invoker_secret(self, project: str) -> str:
        """What this control plane itself shows the model servers of a project. It opens nothing else, and is never stored or shown."""
        return rules.invoker_secret(self._key, project)

    def lost_right(self, view: Snapshot, token_id: str, project: str, right: Right, principal: str) -> str:
        """Why what somebody asked for earlier is not done with his rights any more; "" as long as his token still carries them.

        What a task asked for goes on: its token ends with it, and the project is its own.
        """
        token = view.get(TOKENS, token_id) if token_id else None
        if not token_id:
            return ""
        if token is None or token.project not in (project, rules.ALL_PROJECTS):
            return f"the token of {principal} is gone"
        if not rules.is_alive(token, self._clock.now()):
            return f"the token of {principal} was revoked or has expired"
        return "" if right in rules.RIGHTS[token.role] else f"the token of {principal} does not carry {right.value!r}"

    def install(self) -> str:
        """Make the default project and the owner's token; returns the token's secret. Once per installation."""
        owner = Caller(
            principal="install",
            project=model.DEFAULT_PROJECT,
            scope=rules.ALL_PROJECTS,
            rights=rules.RIGHTS[model.Role.ADMIN],
        )

        def work(tx: Transaction) -> str:
            if tx.get(PROJECTS, model.DEFAULT_PROJECT) is None:
                self.create_project(tx, model.CreateProject(name=model.DEFAULT_PROJECT), owner)
            ask = model.CreateToken(name="owner", role=model.Role.ADMIN)
            return self._issue(tx, ask, rules.ALL_PROJECTS).secret

        return self._store.write(work)

    def create_project(self, tx: Transaction, ask: model.CreateProject, by: Caller) -> model.Project:
        return tx.insert(PROJECTS, model.Project(id=ask.name, project=ask.name, created_at=self._clock.now()))

    def list_projects(self, ask: model.ListProjects, by: Caller) -> Page[model.Project]:
        where = {} if by.scope == rules.ALL_PROJECTS else {"id": by.scope}
        return self._store.read(lambda view: listed(view, PROJECTS, where, ask, newest_first=False))

    def create_token(self, tx: Transaction, ask: model.CreateToken, by: Caller) -> model.IssuedToken:
        return self._issue(tx, ask, by.project)

    def _issue(self, tx: Transaction, ask: model.CreateToken, project: str) -> model.IssuedToken:
        token_id, now = self._ids.new("token"), self._clock.now()
        secret = rules.token_secret(self._key, token_id)
        token = model.Token(
            id=token_id,
            project=project,
            name=ask.name,
            role=ask.role,
            digest=digests.of_bytes(secret.encode()),
            created_at=now,
            expires_at=None if ask.ttl_s is None else now + ask.ttl_s,
        )
        return model.IssuedToken(token=tx.insert(TOKENS, token), secret=secret)

    def _with_secret(self, issued: model.IssuedToken) -> model.IssuedToken:
        return model.IssuedToken(token=issued.token, secret=rules.token_secret(self._key, issued.token.id))

    def list_tokens(self, ask: model.ListTokens, by: Caller) -> Page[model.Token]:
        where = {"project": by.project}
        tokens = self._store.read(lambda view: listed(view, TOKENS, where, ask, newest_first=False))
        return tokens.shown(lambda token: changed(token, {"digest": ""}))

    def revoke_token(self, tx: Transaction, ask: model.RevokeToken, by: Caller) -> Done:
        token = owned(tx, TOKENS, ask.token_id, by.project)
        if token is None:
            raise TokenMissing(f"There is no token {ask.token_id}.", next_action="List them: skyloom token list.")
        if token.revoked_at is None:
            tx.update(TOKENS, changed(token, {"revoked_at": self._clock.now()}))
        return Done()

    def list_audit(self, ask: model.ListAudit, by: Caller) -> Page[model.AuditEntry]:
        where = {"project": by.project}
        found = self._store.read(lambda view: view.entries(AUDIT, where, limit=ask.limit, newest_first=True))
        return Page(items=tuple(entry for _, entry in found))

    def tick(self) -> float:
        """Forget answers that were kept for repeated requests, a week after they were given. Returns the pause until the next time."""
        early_s = self._look_at - self._clock.monotonic()
        if early_s > 0:  # loops are woken by every change; this one has time
            return early_s
        horizon = self._clock.now() - _REPLAY_AGE_S

        def work(tx: Transaction) -> bool:
            oldest = tx.select(REPLAYS, order="made_at", limit=_REPLAYS_AT_ONCE)
            stale = [replay for replay in oldest if replay.made_at < horizon]
            for replay in stale:
                tx.delete(REPLAYS, replay.id)
            return len(stale) == _REPLAYS_AT_ONCE

        pause_s = 1.0 if self._store.write(work) else _LOOK_S
        self._look_at = self._clock.monotonic() + pause_s
        return pause_s

    def fingerprint(self, ask: Operation[Any]) -> str:
        """What tells two requests apart: a digest, and of a private one a MAC, which says nothing without our key."""
        content = msgspec.json.encode([ask.route.name, ask])
        return rules.keyed_digest(self._key, content) if ask.route.private else digests.of_bytes(content)

    def audit(self, tx: Transaction, ask: Operation[Any], by: Caller, subject: str, outcome: str) -> None:
        """Add to the chain, inside the transaction of the change itself."""
        last = tx.entries(AUDIT, limit=1, newest_first=True)
        entry = model.AuditEntry(
            at=self._clock.now(),
            principal=by.principal,
            project=by.project,
            operation=ask.route.name,
            subject=subject,
            request=self.fingerprint(ask) if ask.route.private else digests.of_value(ask),
            outcome=outcome,
            previous="",
            hash="",
        )
        tx.append(AUDIT, rules.chained(entry, last[0][1].hash if last else ""))


def _without_secret(issued: model.IssuedToken) -> model.IssuedToken:
    """What may be stored of a new token for a repeat of the request."""
    return model.IssuedToken(token=issued.token, secret="")
