from skyloom.ports.store import Transaction
from skyloom.rooms.jobs.writing import write_each
from skyloom.stores.memory import MemoryStore


def test_one_that_cannot_be_written_holds_up_no_other_and_costs_few_writes() -> None:
    tries: list[int] = []

    def work(tx: Transaction, item: int) -> int:
        if item == 20:
            raise ValueError("a damaged record")
        tries.append(item)
        return item * 2

    class Counting(MemoryStore):
        num_writes = 0

        def write(self, work):  # type: ignore[no-untyped-def]
            self.num_writes += 1
            return super().write(work)

    store = Counting()
    made = write_each(store, work, [(f"job_{item}", item) for item in range(64)])
    assert made == {f"job_{item}": item * 2 for item in range(64) if item != 20}
    assert store.num_writes == 13  # all, and two halves of each of six halves that hold it
