"""The bounded priority queue of requests that wait for a seat in an engine.

One idea: the order is a key fixed at put, (class, tag, order of insertion), so the queue
knows no policy; whoever puts computes the tag. Every method may be called from any thread,
and only take() waits.
"""

from typing import final

NUM_CLASSES: int
"""Number of priority classes; 0 is served first."""

MAX_CAPACITY: int
"""Largest capacity that can be asked for."""

class QueueFull(Exception):  # noqa: N818 - names a state, as queue.Full does
    """The queue holds as many items as it may."""

class QueueClosed(Exception):  # noqa: N818
    """The queue takes no more items."""

@final
class BatchQueue:
    """Bounded min-heap on (class, 64-bit tag), first in first out among equals.

    The queue owns a reference to each item from put() until the item is handed out. The
    cyclic garbage collector cannot see these references: close() a queue that is no longer
    used, or a cycle that leads through an item and back to the queue is never freed.

    Args:
        capacity: Most items that may wait.

    Raises:
        ValueError: The capacity is less than 1 or above MAX_CAPACITY.
        MemoryError: There is no memory for it.
    """

    def __init__(self, capacity: int) -> None: ...
    def __len__(self) -> int:
        """Items waiting."""

    @property
    def capacity(self) -> int:
        """Most items that may wait."""

    @property
    def closed(self) -> bool:
        """Whether close() was called."""

    def count(self, priority: int) -> int:
        """Items waiting in one class.

        Raises:
            ValueError: There is no such class.
        """

    def position(self, handle: int) -> int | None:
        """How many items come before this one; O(n).

        Returns:
            The number, or None if the handle's item has left.
        """

    def put(self, item: object, priority: int, tag: int) -> int:
        """Add an item; never waits for room.

        Args:
            item: What take() will return.
            priority: Class, 0 to NUM_CLASSES - 1; lower ones are served first.
            tag: Order inside the class, an unsigned 64-bit number; lower ones first.

        Returns:
            A handle for remove() and position(): an unsigned 64-bit number that is not used
            again for another item in the life of any server.

        Raises:
            QueueFull: The queue holds `capacity` items.
            QueueClosed: The queue was closed.
            ValueError: There is no such class.
            OverflowError: The tag does not fit.
        """

    def take(self, max_items: int, timeout_s: float | None = 0.0) -> list[object]:
        """Take the best items out, and wait for the first one if there is none.

        Waits, without the GIL, until there is an item and max_items is not 0, or the queue
        is kicked or closed, or the time is over. In the main thread signal handlers run
        meanwhile, and what they raise ends the wait; nothing is lost then.

        Args:
            max_items: Most items to take. 0 takes nothing and waits for a kick or close.
            timeout_s: Longest wait; 0 never waits (and uses no kick up), None has no limit.

        Returns:
            The items, best first; empty after a kick, a close or the timeout.

        Raises:
            ValueError: max_items is negative.
        """

    def remove(self, handle: int) -> object | None:
        """Take one item out of its place; O(log n).

        Returns:
            The item, or None if it was taken or removed already.
        """

    def kick(self) -> None:
        """End one wait in take(): the present one or, if nobody waits, the next one.

        Several kicks before that wait count as one.
        """

    def close(self) -> list[object]:
        """Refuse further items and end all waits. May be repeated.

        Returns:
            What was left, best first.
        """

    def check_integrity(self) -> None:
        """Check that heap, slots and counts agree; O(n), for tests.

        Raises:
            AssertionError: They do not.
        """
