"""The service of secrets: envelope encryption. The master key seals one key for each project, and that one seals its secrets."""

from collections.abc import Sequence
from typing import Any

import msgspec

from skyloom.core.ids import Ids
from skyloom.core.operation import Caller, Done, Page
from skyloom.ports.clock import Clock
from skyloom.ports.door import Change, Handlers, Query
from skyloom.ports.lookup import listed, named
from skyloom.ports.sealing import Sealer
from skyloom.ports.store import Snapshot, Store, Transaction, changed
from skyloom.rooms.secrets import model
from skyloom.rooms.secrets.model import DataKey, Secret, SecretMisused, SecretStatus, SecretUse
from skyloom.rooms.secrets.ports import DATA_KEYS, SECRETS

_RESERVED = "SKYLOOM_"


class Opened(msgspec.Struct, frozen=True):
    """Secrets on their way into a task. Never logged, stored or answered.

    Attributes:
        files: name of the file → content.
        variables: name of the variable → value.
    """

    files: dict[str, str]
    variables: dict[str, str]

    def __repr__(self) -> str:
        return f"Opened({len(self.files)} files, {len(self.variables)} variables)"


NOTHING_OPENED = Opened({}, {})


class Secrets:
    """Secrets of all projects.

    Args:
        master_key: 32 bytes, kept in a file beside the database and never in it.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids, sealer: Sealer, master_key: bytes) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._sealer = sealer
        self._master_key = master_key

    def handlers(self) -> Handlers:
        return {
            model.SetSecret: Change(self.set),
            model.ListSecrets: Query(self.list),
            model.DeleteSecret: Change(self.delete),
        }

    def set(self, tx: Transaction, ask: model.SetSecret, by: Caller) -> SecretStatus:
        key = self._key(tx, by.project)
        before = named(tx, SECRETS, ask.name, by.project)
        secret_id = before.id if before else self._ids.new("secret")
        number = before.number + 1 if before else 1
        content = ask.value.encode("utf-8", "surrogatepass")
        facts: dict[str, Any] = {
            "number": number,
            "sealed": self._sealer.seal(key, content, _place(by.project, secret_id, number)),
            "set_at": self._clock.now(),
            "set_by": by.principal,
        }
        if before:
            return _told(tx.update(SECRETS, changed(before, facts)))
        return _told(tx.insert(SECRETS, Secret(id=secret_id, project=by.project, name=ask.name, **facts)))

    def _key(self, tx: Transaction, project: str) -> bytes:
        """The project's key; made with its first secret."""
        kept = tx.get(DATA_KEYS, project)
        if kept is not None:
            return self._sealer.open(self._master_key, kept.sealed, _place(project))
        key = self._sealer.new_key()
        sealed = self._sealer.seal(self._master_key, key, _place(project))
        tx.insert(DATA_KEYS, DataKey(id=project, project=project, sealed=sealed, created_at=self._clock.now()))
        return key

    def list(self, ask: model.ListSecrets, by: Caller) -> Page[SecretStatus]:
        where = {"project": by.project}
        return self._store.read(lambda view: listed(view, SECRETS, where, ask)).shown(_told)

    def delete(self, tx: Transaction, ask: model.DeleteSecret, by: Caller) -> Done:
        tx.delete(SECRETS, self._found(tx, ask.name, by.project).id)
        return Done()

    # For jobs

    def check(self, view: Snapshot, uses: Sequence[SecretUse], project: str) -> None:
        """Raise `SecretMissing` or `SecretMisused` unless a job may be started with these."""
        variables = [use.variable for use in uses if use.variable]
        twice = [name for name in variables if variables.count(name) > 1 or name.upper().startswith(_RESERVED)]
        if twice:
            raise SecretMisused(
                f"The variable {twice[0]} cannot hold a secret: it is asked for twice, or it is Skyloom's own.",
                next_action="Give every secret a variable of its own.",
            )
        for use in uses:
            self._found(view, use.name, project)

    def open(self, uses: Sequence[SecretUse], project: str) -> Opened:
        """The values for a task that starts now. Raises `SecretMissing`, `SealBroken`."""
        if not uses:
            return NOTHING_OPENED

        def work(view: Snapshot) -> tuple[DataKey | None, list[Secret]]:
            return view.get(DATA_KEYS, project), [self._found(view, use.name, project) for use in uses]

        kept, found = self._store.read(work)
        assert kept is not None, "a project with secrets has a key"
        key = self._sealer.open(self._master_key, kept.sealed, _place(project))
        values = [self._value(key, secret) for secret in found]
        pairs = list(zip(uses, values, strict=True))
        return Opened(
            {_file_of(use.name): value for use, value in pairs if not use.variable},
            {use.variable: value for use, value in pairs if use.variable},
        )

    def _value(self, key: bytes, secret: Secret) -> str:
        place = _place(secret.project, secret.id, secret.number)
        return self._sealer.open(key, secret.sealed, place).decode("utf-8", "surrogatepass")

    def _found(self, view: Snapshot, name: str, project: str) -> Secret:
        found = named(view, SECRETS, name, project)
        if found is None:
            raise model.SecretMissing(
                f"There is no secret {name!r}.",
                next_action=f"See: skyloom secret list. Set it: skyloom secret set {name}.",
            )
        return found


def _file_of(name: str) -> str:
    """What the file of a secret is called; a dash is no character of a variable's name."""
    return f"SECRET_{name.replace('-', '_').upper()}"


def _place(*parts: object) -> str:
    """What sealed bytes are bound to, so that one secret cannot be put in the place of another."""
    return "/".join(("skyloom-secret", *map(str, parts)))


def _told(secret: Secret) -> SecretStatus:
    return SecretStatus(name=secret.name, number=secret.number, set_at=secret.set_at, set_by=secret.set_by)
