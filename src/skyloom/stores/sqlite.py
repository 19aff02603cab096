"""The embedded store: SQLite with one writer thread and group commit.

Why so: several writers with deferred transactions answer "database is locked" by the thousand, and one disk sync per caller wastes
most of the disk. Here callers queue their work, one thread runs everything that has queued up as one transaction (a savepoint each),
and one sync makes all of it durable. Readers are ``query_only`` and see the last commit. Only the writer ever checkpoints, because
SQLite before 3.51.3 can damage a WAL that several connections reset.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from skyloom.core.errors import AlreadyExists, NotFound, SkyloomError, StaleVersion, StorageFull, Unavailable
from skyloom.ports.store import ANYTHING, Collection, E, Log, N, Snapshot, Transaction, Where, changed
from skyloom.stores.sql import CollectionSql, LogSql, word

T = TypeVar("T")
_MAX_BATCH = 256
# What a connection keeps of statements and pages stays in memory for good. The system keeps the file's pages too, once for all.
_MAX_STATEMENTS, _WRITER_CACHE_KIB, _READER_CACHE_KIB, _MAX_IDLE_READERS = 128, 1_024, 128, 8
_FAULTS_OF_ONE = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
CommitHook = Callable[[str, int], None]


class StoreDamaged(Unavailable):
    """The database file cannot be read as a database."""


class SqliteStore:
    """A `Store` in one file.

    Args:
        path: the database file; its folder must exist.
        collections, logs: everything the rooms need stored.
        on_commit: called with ("before" or "after", k) around the k-th commit that changes something; crash tests kill here.
    """

    def __init__(
        self,
        path: Path,
        collections: Sequence[Collection[Any]],
        logs: Sequence[Log[Any]],
        on_commit: CommitHook | None = None,
    ) -> None:
        self._path = path
        self._collections = {item.name: CollectionSql(item) for item in collections}
        self._logs = {item.name: LogSql(item) for item in logs}
        self._on_commit = on_commit or (lambda _phase, _count: None)
        self._num_commits = 0
        self._queue: queue.SimpleQueue[tuple[Callable[[Transaction], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._readers: list[sqlite3.Connection] = []
        self._closing = threading.Lock()
        self._closed = False
        with translated():
            self._writer = self._connect()
            self._prepare()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[Transaction], T]) -> T:
        answer: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise Unavailable("The store is closed.", next_action="Start the control plane again: skyloom up.")
            self._queue.put((work, answer))
        return answer.result()

    def read(self, work: Callable[[Snapshot], T]) -> T:
        with translated(), self._reader() as connection:
            connection.execute("BEGIN")
            try:
                return work(SqliteSnapshot(connection, self._collections, self._logs))
            finally:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        for reader in self._readers:
            reader.close()
        self._writer.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_MAX_STATEMENTS,
            timeout=5,
        )
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connect()
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA query_only = 1")
            connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
        try:
            yield connection
        finally:
            if len(self._readers) < _MAX_IDLE_READERS:
                self._readers.append(connection)
            else:
                connection.close()

    def _prepare(self) -> None:
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = FULL")
        self._writer.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
        self._writer.execute("PRAGMA wal_autocheckpoint = 1000")
        self._writer.execute("PRAGMA journal_size_limit = 67108864")
        self._writer.execute("BEGIN IMMEDIATE")
        for sql in self._collections.values():
            self._add_columns(sql)
            for statement in sql.create:
                self._writer.execute(statement)
        for log in self._logs.values():
            for statement in log.create:
                self._writer.execute(statement)
        self._writer.execute("COMMIT")
        self._path.chmod(0o600)

    def _add_columns(self, sql: CollectionSql[Any]) -> None:
        """Give an older table the index columns that were declared since, filled from its records."""
        present = {row[1] for row in self._writer.execute(f"PRAGMA table_info({sql.table})")}
        missing = [name for name in sql.columns if present and name not in present]
        for name in missing:
            self._writer.execute(f"ALTER TABLE {sql.table} ADD COLUMN {word(name)}")
        if missing:
            records = [sql.decode(body) for (body,) in self._writer.execute(f"SELECT body FROM {sql.table}")]  # noqa: S608
            for record in records:
                self._writer.execute(sql.update, (*sql.row(record), record.id, record.version))

    def _run(self) -> None:
        closing = False
        while not closing:
            batch = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) == _MAX_BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            closing = item is None
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[tuple[Callable[[Transaction], Any], Future[Any]]]) -> None:
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with translated():
                self._writer.execute("BEGIN IMMEDIATE")
                before = self._writer.total_changes
                for work, future in batch:
                    outcomes.append((future, *self._attempt(work)))
                if self._writer.total_changes == before:
                    self._writer.execute("ROLLBACK")
                else:
                    self._num_commits += 1
                    self._on_commit("before", self._num_commits)
                    self._writer.execute("COMMIT")
                    self._on_commit("after", self._num_commits)
        except Exception as failure:
            # The whole transaction is gone (disk full, damage): nobody may believe that his part was kept.
            if self._writer.in_transaction:
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
            outcomes = [(future, None, failure) for _, future in batch]
        for future, answer, error in outcomes:
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)

    def _attempt(self, work: Callable[[Transaction], Any]) -> tuple[Any, BaseException | None]:
        self._writer.execute("SAVEPOINT work")
        try:
            answer = work(SqliteTransaction(self._writer, self._collections, self._logs))
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _FAULTS_OF_ONE):
                raise  # the disk or the file: it concerns the whole transaction
            self._writer.execute("ROLLBACK TO work")
            self._writer.execute("RELEASE work")
            return None, error
        self._writer.execute("RELEASE work")
        return answer, None


class SqliteSnapshot:
    """`Snapshot` on one connection inside one transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        collections: dict[str, CollectionSql[Any]],
        logs: dict[str, LogSql[Any]],
    ) -> None:
        self._connection = connection
        self._collections = collections
        self._logs = logs

    def get(self, collection: Collection[N], identifier: str) -> N | None:
        sql = self._collections[collection.name]
        row = self._connection.execute(sql.get, (identifier,)).fetchone()
        return sql.decode(row[0]) if row else None

    def select(
        self,
        collection: Collection[N],
        where: Where = ANYTHING,
        *,
        order: str = "id",
        newest_first: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[N]:
        sql = self._collections[collection.name]
        text, values = sql.select(where, order, newest_first, after, limit)
        return [sql.decode(body) for (body,) in self._connection.execute(text, values)]

    def count(self, collection: Collection[N], where: Where = ANYTHING) -> int:
        text, values = self._collections[collection.name].count(where)
        return int(self._connection.execute(text, values).fetchone()[0])

    def entries(
        self, log: Log[E], where: Where = ANYTHING, *, after: int = 0, limit: int = 1_000, newest_first: bool = False
    ) -> list[tuple[int, E]]:
        sql = self._logs[log.name]
        text, values = sql.select(where, after, limit, newest_first)
        return [(seq, sql.decode(body)) for seq, body in self._connection.execute(text, values)]


class SqliteTransaction(SqliteSnapshot):
    """`Transaction` on the writer's connection."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        collections: dict[str, CollectionSql[Any]],
        logs: dict[str, LogSql[Any]],
    ) -> None:
        super().__init__(connection, collections, logs)
        self.touched: set[str] = set()

    def insert(self, collection: Collection[N], record: N) -> N:
        sql = self._collections[collection.name]
        stored = changed(record, {"version": 1})
        self.touched.add(collection.name)
        try:
            self._connection.execute(sql.insert, (stored.id, *sql.row(stored)))
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(
                f"{collection.name}: {_name(record, collection)} exists already.",
                next_action="Choose another name, or change the one that exists.",
            ) from error
        return stored

    def update(self, collection: Collection[N], record: N) -> N:
        sql = self._collections[collection.name]
        stored = changed(record, {"version": record.version + 1})
        self.touched.add(collection.name)
        values = (*sql.row(stored), record.id, record.version)
        if self._connection.execute(sql.update, values).rowcount == 1:
            return stored
        if self.get(collection, record.id) is None:
            raise NotFound(f"{collection.name}: {record.id} is gone.", next_action="List what is there.")
        raise StaleVersion(
            f"{collection.name}: {record.id} was changed by somebody else.", next_action="Read it again and repeat."
        )

    def delete(self, collection: Collection[N], identifier: str) -> None:
        self.touched.add(collection.name)
        self._connection.execute(self._collections[collection.name].delete, (identifier,))

    def append(self, log: Log[E], entry: E) -> int:
        self.touched.add(log.name)
        sql = self._logs[log.name]
        keys = [getattr(entry, name) for name in sql.keys]
        return int(self._connection.execute(sql.insert, (sql.encode(entry), *keys)).lastrowid or 0)

    def trim(self, log: Log[E], *, through: int, limit: int) -> int:
        return self._connection.execute(self._logs[log.name].trim, (through, limit)).rowcount


def _name(record: Any, collection: Collection[Any]) -> str:
    return " ".join(str(getattr(record, name)) for name in collection.unique) or record.id


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except SkyloomError:
        raise
    except sqlite3.Error as error:
        text = str(error)
        # The index of the log cannot grow: SQLite has no better word for a disk that fills up just then.
        if "full" in text or getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE":
            raise StorageFull(
                "The disk that holds the database is full; nothing was written.",
                next_action="Free some space; the control plane goes on by itself.",
            ) from error
        if "locked" in text or "busy" in text:
            raise Unavailable(
                "Another program holds the database.",
                next_action="Close the program that has skyloom.db open; then try again.",
            ) from error
        if "readonly" in text or "unable to open" in text or "permission" in text:
            raise Unavailable(
                f"The database cannot be opened for writing ({text}).",
                next_action="Check the owner and the permissions of the data folder.",
            ) from error
        raise StoreDamaged(
            f"The database cannot be read ({text}).",
            next_action="Stop the control plane, keep a copy of the folder, and restore a backup of skyloom.db.",
        ) from error
