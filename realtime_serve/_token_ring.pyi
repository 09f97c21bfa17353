"""The bounded ring that carries one stream's tokens to its reader.

One idea: the inference thread (producer) and the stream's reader (consumer) share nothing
but this ring, and neither ever waits for the other inside it. The producer asks for room
before it computes; the consumer takes what is ready; the end is a state beside the records,
so a full ring cannot lose it. Nothing here blocks or takes a lock.
"""

from typing import TypeAlias, final

TokenRecord: TypeAlias = tuple[int, int, float, int]
"""One token: token_id, index (which choice), logprob, flags."""

FLAG_NO_TEXT: int
"""The token ends the sequence and is no part of the text."""
FLAG_LAST: int
"""No record of this choice follows; the state may be published a moment later."""

OPEN: int
"""State of a ring that has not ended, and cancel_state when nothing was asked. It is 0."""
STOP: int
LENGTH: int
CANCELLED: int
DEADLINE: int
ERROR: int

MAX_CAPACITY: int
"""Largest capacity that can be asked for."""

@final
class TokenRing:
    """Bounded single-producer, single-consumer ring of one stream's tokens.

    Args:
        capacity: Most records that may wait; rounded up to a power of two.

    Raises:
        ValueError: The capacity is less than 1 or above MAX_CAPACITY.
        MemoryError: There is no memory for it.
    """

    def __init__(self, capacity: int) -> None: ...
    def __len__(self) -> int:
        """Records ready: exact for producer and consumer, a recent figure for others."""

    @property
    def capacity(self) -> int:
        """The rounded capacity. Any thread."""

    @property
    def state(self) -> int:
        """OPEN or the terminal state. Any thread.

        A consumer reads it before its last pop: a terminal state followed by an empty pop
        is the end of the stream.
        """

    @property
    def cancel_state(self) -> int:
        """OPEN, or what request_cancel() asked for first. Any thread."""

    @property
    def is_stalled(self) -> bool:
        """Whether the producer has said that it waits for room, and has not got it. Any thread."""

    @property
    def stalled_s(self) -> float:
        """How long it has waited so far, all stalls of an open stream together. Any thread."""

    def push(self, token_id: int, index: int = 0, logprob: float = 0.0, flags: int = 0) -> bool:
        """Append one record. Producer only.

        Args:
            token_id: Vocabulary id, a signed 32-bit number.
            index: Which of the request's choices, 0 to 65,535.
            logprob: The token's log-probability.
            flags: FLAG_* bits.

        Returns:
            False if the ring is full; nothing was written then.

        Raises:
            OverflowError: A number does not fit its field.
        """

    def free_space(self) -> int:
        """How many records can be pushed now; only grows until the next push. Producer only."""

    def reader_activity(self) -> int:
        """Records popped and renewals so far. Producer only.

        Read twice alike, the reader has done nothing between.
        """

    def mark_stalled(self) -> bool:
        """Say that the producer will not look again until it is kicked. Producer only.

        The producer must need at most half the ring at a time (one record in a ring of one).

        Returns:
            True if the consumer will see it: its take_stalled() is True, once, when half the
            ring is free. False if half the ring is free already, and the mark is gone: look
            again. No interleaving leaves the producer waiting for nothing.
        """

    def finish(self, state: int) -> bool:
        """End the stream, once, and a stall with it. Any thread.

        Whoever sees the state also sees every record that this thread pushed before.

        Args:
            state: STOP, LENGTH, CANCELLED, DEADLINE or ERROR.

        Returns:
            False if the stream had ended already; its state stays.

        Raises:
            ValueError: Not a terminal state.
        """

    def renew(self) -> None:
        """Count as activity of the reader, who is still at what was popped last. Any thread."""

    def pop(self, max_items: int = ...) -> list[TokenRecord]:
        """Take the records that are ready, oldest first. Consumer only.

        Args:
            max_items: Most records to take; all by default.

        Returns:
            The records; empty if there are none.

        Raises:
            ValueError: max_items is negative.
        """

    def take_stalled(self) -> bool:
        """Whether the producer waits for a kick. Consumer only, after each pop with records.

        Returns:
            True, once, if the producer is stalled and half the ring is free: kick it.
        """

    def request_cancel(self, state: int) -> bool:
        """Ask the producer to end. The first wish stays. Consumer only.

        Args:
            state: CANCELLED, DEADLINE or STOP (the text was cut at a stop string).

        Returns:
            False if something was asked for already.

        Raises:
            ValueError: Another state.
        """
