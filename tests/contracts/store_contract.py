"""What every `Store` promises; one subclass per adapter."""

import threading
from collections.abc import Iterator
from operator import methodcaller

import msgspec
import pytest

from skyloom.core.errors import AlreadyExists, NotFound, StaleVersion, Unavailable
from skyloom.ports.store import Collection, Log, Not, Record, Store, changed


class Box(Record, frozen=True, kw_only=True):
    name: str
    colour: str = "red"
    size: int = 0
    owner: str | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    text: str = ""


BOXES = Collection("boxes", Box, indexes=("colour", "size", "owner"), unique=("name",), ordered=(("colour", "size"),))
LINES = Log("lines", Line, keys=("subject",))


def box(identifier: str, **attributes: object) -> Box:
    return msgspec.convert({"id": identifier, "project": "p", "name": identifier, **attributes}, Box)


class StoreContract:
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        raise NotImplementedError

    def test_insert_new_record_has_version_one(self, store: Store) -> None:
        stored = store.write(lambda tx: tx.insert(BOXES, box("a")))
        assert stored.version == 1
        assert store.read(lambda view: view.get(BOXES, "a")) == stored

    def test_insert_taken_id_or_name_raises_and_keeps_the_first(self, store: Store) -> None:
        store.write(lambda tx: tx.insert(BOXES, box("a")))
        with pytest.raises(AlreadyExists):
            store.write(lambda tx: tx.insert(BOXES, box("a")))
        with pytest.raises(AlreadyExists):
            store.write(lambda tx: tx.insert(BOXES, box("b", name="a")))
        assert store.read(lambda view: view.count(BOXES)) == 1

    def test_insert_same_name_in_another_project_is_fine(self, store: Store) -> None:
        store.write(lambda tx: tx.insert(BOXES, box("a")))
        store.write(lambda tx: tx.insert(BOXES, box("b", name="a", project="q")))
        assert store.read(lambda view: view.count(BOXES, {"project": "q"})) == 1

    def test_update_stale_version_raises(self, store: Store) -> None:
        first = store.write(lambda tx: tx.insert(BOXES, box("a")))
        second = store.write(lambda tx: tx.update(BOXES, changed(first, {"size": 5})))
        assert (second.version, second.size) == (2, 5)
        with pytest.raises(StaleVersion):
            store.write(lambda tx: tx.update(BOXES, first))

    def test_update_missing_record_raises(self, store: Store) -> None:
        with pytest.raises(NotFound):
            store.write(lambda tx: tx.update(BOXES, box("nobody")))

    def test_select_not_leaves_these_out(self, store: Store) -> None:
        boxes = (("a", "red", 3), ("b", "blue", 2), ("c", "red", 1), ("d", "green", 0))
        for name, colour, size in boxes:
            store.write(methodcaller("insert", BOXES, box(name, colour=colour, size=size)))

        def names(*left_out: str) -> list[str]:
            where = {"colour": Not(left_out)}
            return [one.id for one in store.read(lambda view: view.select(BOXES, where, order="size"))]

        assert names() == ["d", "c", "b", "a"]
        assert names("blue", "green") == ["c", "a"]
        assert store.read(lambda view: view.count(BOXES, {"colour": "red", "size": Not((3,))})) == 1

    def test_select_takes_nothing_for_a_value_like_any_other(self, store: Store) -> None:
        for name, owner in (("a", None), ("b", "ann"), ("c", "bob")):
            store.write(methodcaller("insert", BOXES, box(name, owner=owner)))

        def names(wanted: tuple[str | None, ...] | Not | None) -> str:
            return "".join(one.id for one in store.read(lambda view: view.select(BOXES, {"owner": wanted})))

        assert [names(None), names((None,)), names((None, "bob")), names(("bob",)), names(())] == [
            "a",
            "a",
            "ac",
            "c",
            "",
        ]
        assert [names(Not((None,))), names(Not((None, "ann"))), names(Not(("ann",))), names(Not(()))] == [
            "bc",
            "c",
            "ac",
            "abc",
        ]

    def test_write_that_raises_leaves_nothing(self, store: Store) -> None:
        def work(tx):  # type: ignore[no-untyped-def]
            tx.insert(BOXES, box("a"))
            tx.append(LINES, Line(subject="a"))
            raise KeyError("mine")

        with pytest.raises(KeyError):
            store.write(work)
        assert store.read(lambda view: (view.count(BOXES), view.entries(LINES))) == (0, [])

    def test_write_knows_what_it_touched(self, store: Store) -> None:
        first = store.write(lambda tx: tx.insert(BOXES, box("a")))

        def touched(work):  # type: ignore[no-untyped-def]
            return store.write(lambda tx: (work(tx), set(tx.touched))[1])

        assert touched(lambda tx: tx.insert(BOXES, box("b"))) == {"boxes"}
        assert touched(lambda tx: tx.update(BOXES, changed(first, {"size": 5}))) == {"boxes"}
        assert touched(lambda tx: tx.delete(BOXES, "a")) == {"boxes"}
        assert touched(lambda tx: tx.append(LINES, Line(subject="a"))) == {"lines"}
        assert touched(lambda tx: (tx.get(BOXES, "b"), tx.entries(LINES))) == set()

    def test_write_sees_its_own_changes(self, store: Store) -> None:
        def work(tx):  # type: ignore[no-untyped-def]
            tx.insert(BOXES, box("a"))
            return tx.get(BOXES, "a").version, tx.count(BOXES)

        assert store.write(work) == (1, 1)

    def test_select_filters_orders_and_pages(self, store: Store) -> None:
        def work(tx):  # type: ignore[no-untyped-def]
            for index, colour in enumerate(["red", "blue", "red", "green"]):
                tx.insert(BOXES, box(f"b{index}", colour=colour, size=10 - index))

        store.write(work)
        ids = lambda **options: [item.id for item in store.read(lambda view: view.select(BOXES, **options))]  # noqa: E731
        assert ids(where={"colour": "red"}) == ["b0", "b2"]
        assert ids(where={"colour": ("red", "green")}, newest_first=True) == ["b3", "b2", "b0"]
        assert ids(order="size") == ["b3", "b2", "b1", "b0"]
        assert ids(after="b1", limit=1) == ["b2"]
        assert ids(after="b1", newest_first=True) == ["b0"]

    def test_select_unknown_attribute_raises(self, store: Store) -> None:
        with pytest.raises(ValueError, match="no index"):
            store.read(lambda view: view.select(BOXES, {"name; DROP TABLE boxes": "x"}))

    def test_delete_removes_and_repeats(self, store: Store) -> None:
        store.write(lambda tx: tx.insert(BOXES, box("a")))
        store.write(lambda tx: tx.delete(BOXES, "a"))
        store.write(lambda tx: tx.delete(BOXES, "a"))
        assert store.read(lambda view: view.get(BOXES, "a")) is None

    def test_log_entries_keep_order_and_filter(self, store: Store) -> None:
        for subject in "abab":
            store.write(lambda tx, subject=subject: tx.append(LINES, Line(subject=subject)))
        found = store.read(lambda view: view.entries(LINES, {"subject": "b"}))
        assert [entry.subject for _, entry in found] == ["b", "b"]
        assert [seq for seq, _ in found] == sorted(seq for seq, _ in found)
        newest = store.read(lambda view: view.entries(LINES, limit=1, newest_first=True))
        assert newest[0][0] == max(seq for seq, _ in store.read(lambda view: view.entries(LINES)))
        assert store.read(lambda view: view.entries(LINES, after=newest[0][0])) == []

    def test_trimmed_log_keeps_its_numbers_and_its_newest(self, store: Store) -> None:
        numbers = [store.write(lambda tx, name=name: tx.append(LINES, Line(subject=name))) for name in "abcd"]

        def trim(through: int, limit: int) -> tuple[int, set[str]]:
            return store.write(lambda tx: (tx.trim(LINES, through=through, limit=limit), set(tx.touched)))

        assert trim(numbers[2], 2) == (2, set())
        assert [seq for seq, _ in store.read(lambda view: view.entries(LINES))] == numbers[2:]
        assert (trim(numbers[2], 2), trim(numbers[2], 2)) == ((1, set()), (0, set()))
        assert store.read(lambda view: view.entries(LINES, {"subject": "a"})) == []
        assert trim(numbers[3], 5) == (1, set())
        assert store.write(lambda tx: tx.append(LINES, Line(subject="e"))) > numbers[3]

    def test_write_from_many_threads_loses_nothing(self, store: Store) -> None:
        store.write(lambda tx: tx.insert(BOXES, box("counter")))

        def bump(tx):  # type: ignore[no-untyped-def]
            current = tx.get(BOXES, "counter")
            tx.update(BOXES, changed(current, {"size": current.size + 1}))

        threads = [threading.Thread(target=lambda: [store.write(bump) for _ in range(25)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counter = store.read(lambda view: view.get(BOXES, "counter"))
        assert counter is not None and (counter.size, counter.version) == (200, 201)

    def test_write_after_close_is_refused(self, store: Store) -> None:
        store.close()
        store.close()
        with pytest.raises(Unavailable):
            store.write(lambda tx: tx.count(BOXES))
