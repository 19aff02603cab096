"""A table, files and the three programs as functions, for tests."""

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from skyloom.core import digests
from skyloom.ports.tables import ROW_ID, Tables, TableVersion
from skyloom.recipes.clean import clean
from skyloom.recipes.ingest import ingest
from skyloom.recipes.reading.source import Source
from skyloom.recipes.split import split
from skyloom.rooms.data.contents import Contents
from skyloom.rooms.data.making import Clean, Ingest, SourceFile, Split, Step
from skyloom.rooms.data.rules import format_of
from skyloom.tables.memory import MemoryTables

TABLE = "p/d"


@dataclass
class Bench:
    """Makes versions of one table from files in one folder."""

    folder: Path
    tables: Tables = field(default_factory=MemoryTables)
    contents: dict[int, Contents] = field(default_factory=dict)
    kept: list[bytes] = field(default_factory=list)
    _tries: count = field(default_factory=count)  # type: ignore[type-arg]

    def work(self) -> Path:
        folder = self.folder / f"work.{next(self._tries)}"
        folder.mkdir(parents=True)
        return folder

    def ingest(self, files: dict[str, bytes | str], key: str = "", **options: object) -> tuple[TableVersion, Contents]:
        work = self.work()
        sources = []
        for number, (name, content) in enumerate(files.items()):
            path = work / f"source.{number}"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            sources.append(Source(name, path))
        digest = digests.of_bytes(b"")
        making = Ingest(
            sources=tuple(SourceFile(path=name, digest=digest) for name in files),
            format=options.pop("format", None) or format_of(files),  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
        return self._made(ingest(making, sources, self.tables, TABLE, key or self._key(), work, self._keep))

    def clean(self, base: int, *steps: Step, key: str = "") -> tuple[TableVersion, Contents]:
        made = clean(Clean(steps=steps), self.tables, TABLE, base, self.contents[base], key or self._key(), self.work())
        return self._made(made)

    def split(self, base: int, key: str = "", **options: object) -> tuple[TableVersion, Contents]:
        making = Split(**options)  # type: ignore[arg-type]
        return self._made(split(making, self.tables, TABLE, base, self.contents[base], key or self._key(), self.work()))

    def rows(self, number: int) -> list[dict[str, object]]:
        return self.tables.head(TABLE, number, 10**6).to_pylist()  # type: ignore[no-any-return]

    def values(self, number: int, column: str) -> list[object]:
        return [row[column] for row in self.rows(number)]

    def ids(self, number: int) -> list[object]:
        return self.values(number, ROW_ID)

    def _key(self) -> str:
        return f"key-{next(self._tries)}"

    def _keep(self, path: Path) -> str:
        self.kept.append(path.read_bytes())
        return digests.of_bytes(self.kept[-1])

    def _made(self, made: tuple[TableVersion, Contents]) -> tuple[TableVersion, Contents]:
        self.contents[made[0].number] = made[1]
        return made
