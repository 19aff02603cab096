"""Reading while the model works: an iterator that a thread of its own runs a few items ahead of who uses them."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """The same items in the same order, up to ``depth`` of them made before they are asked for; raises what making them raised.

    Close it: then nothing more is made, and the thread has ended. It waits for an item that is just being made.
    """
    made: queue.SimpleQueue[tuple[bool, Item | BaseException | None]] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    leaving = threading.Event()

    def make() -> None:
        try:
            for item in items:
                made.put((True, item))
                room.acquire()
                if leaving.is_set():
                    return
            made.put((False, None))
        except BaseException as error:
            made.put((False, error))

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            is_item, item = made.get()
            if isinstance(item, BaseException) and not is_item:
                raise item
            if not is_item:
                return
            yield item  # type: ignore[misc]
            room.release()
    finally:
        leaving.set()
        room.release()
        thread.join()
