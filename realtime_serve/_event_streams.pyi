"""Token rings to server-sent events and, where a socket is given, on to the client.

One idea: an ordinary token needs no Python. Its text is prepared once for a vocabulary
(TextTable); an EventStream pops a ring's records and copies prefix, text and suffix; a
SocketStream frames that as chunks and sends them; a StreamDrain does so for all streams of a
hub in one pass, without the GIL. Python sees to what these cannot: ends, clients that do not
keep up or have gone, and events that it has to make itself.
"""

from typing import final

ATTENTION_BLOCKED: int
"""The bit in SocketStream.attention of a client that does not keep up."""
ATTENTION_AGAIN: int
"""The bit of a stream with more tokens ready than one pass takes."""

TOKEN_GAP_BOUNDS_S: tuple[float, ...]
"""Upper bounds of the histogram in TokenTimes.gap_counts: fine from 0.1 ms, where small models
live."""

@final
class TextTable:
    """What each token of a vocabulary adds to a text, escaped for JSON.

    Filled by one thread; then any may read it.

    Args:
        num_tokens: One more than the largest id; tokens have no text until it is set.
        joins_runs: What bytes become that are no characters by themselves. False, as byte-level
            vocabularies have it: each character goes out when it is complete. True, as
            SentencePiece has it: a run of byte tokens waits for its end, and one wrong byte
            turns each of them into U+FFFD.
        num_leading_spaces: How many spaces at the beginning of a text are left out.

    Raises:
        ValueError: A number is negative.
        MemoryError: There is no memory for it.
    """

    def __init__(
        self, num_tokens: int, *, joins_runs: bool = False, num_leading_spaces: int = 0
    ) -> None: ...
    def __len__(self) -> int:
        """One more than the largest id."""

    def set_text(self, token_id: int, text: bytes) -> None:
        """Say what a token adds.

        Args:
            token_id: Which token.
            text: UTF-8, or a part of it that neighbours complete.

        Raises:
            IndexError: There is no such id.
            MemoryError: There is no memory for it.
        """

    def set_byte(self, token_id: int, value: int) -> None:
        """Say that a token stands for one byte of a run, even one that is a character.

        Args:
            token_id: Which token.
            value: 0 to 255.

        Raises:
            IndexError: There is no such id.
            MemoryError: There is no memory for it.
        """

@final
class TokenTimes:
    """When the tokens of one stream came, in monotonic seconds. The consumer's thread only."""

    def note(self, num_tokens: int, now_s: float) -> None:
        """Count tokens that became visible together; all but the first have no gap.

        Args:
            num_tokens: How many.
            now_s: When.

        Raises:
            ValueError: num_tokens is less than 1.
        """

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""

    @property
    def first_at_s(self) -> float | None:
        """When the first one came; None if none has."""

    @property
    def last_at_s(self) -> float | None:
        """When the latest one came; None if none has."""

    @property
    def gap_sum_s(self) -> float:
        """Seconds between tokens, all together."""

    @property
    def gap_counts(self) -> list[int]:
        """Gaps by TOKEN_GAP_BOUNDS_S, and those above."""

@final
class EventStream:
    """The records of one ring as server-sent events. The ring's consumer only.

    The events of tokens that the engine calls the last wait for the terminal state, so that
    text which was kept back for a continuation goes out with them.

    Args:
        ring: What to read.
        table: The vocabulary's.
        times: Where the tokens are counted.
        prefix: What stands before the text in each event.
        suffix: What stands behind it.
    """

    def __init__(
        self, ring: object, table: TextTable, times: TokenTimes, prefix: bytes, suffix: bytes
    ) -> None: ...
    def take(self) -> bytes:
        """Make the events of the tokens that are ready, of a long queue only the first ones.

        Returns:
            The events of all tokens that have text; often empty.

        Raises:
            MemoryError: There is no memory; the stream has failed then.
        """

    @property
    def end_state(self) -> int:
        """The ring's terminal state once everything was taken; OPEN before."""

    def take_starved(self) -> bool:
        """Whether the engine has to be kicked; True once."""

class DrainedStream:
    """A stream that a drain can pass over. The hub's thread only."""

    def take(self) -> bytes:
        """Send or collect the events of tokens that are ready, of a long queue the first ones.

        Returns:
            Nothing: all has been seen to.

        Raises:
            MemoryError: There is no memory; the stream has failed then, between two chunks.
            TypeError: The stream has no events to take.
        """

    @property
    def end_state(self) -> int:
        """As EventStream.end_state; the last events may still be unsent."""

    def take_starved(self) -> bool:
        """As EventStream.take_starved."""

    @property
    def attention(self) -> int:
        """Why the latest pass wants Python, as bits; 0 if it does not."""

@final
class CollectedStream(DrainedStream):
    """A stream that is kept until it is wanted as a whole. The hub's thread only.

    Args:
        events: What to keep.
    """

    def __init__(self, events: EventStream) -> None: ...
    def collected_events(self) -> bytes:
        """All events that were taken so far."""

class SocketStream(DrainedStream):
    """A stream that goes to its client's socket as chunks of HTTP/1.1, without waiting.

    It owns a duplicate of the socket's descriptor, and puts at most 64 KiB into it and its own
    buffer together: then, and when the kernel takes no more, it is blocked. The hub's thread
    only.

    Args:
        events: What to send; None if everything is written.
        fd: The connected socket's descriptor.

    Raises:
        OSError: The descriptor cannot be duplicated.
    """

    def __init__(self, events: EventStream | None, fd: int) -> None: ...
    def write(self, data: bytes) -> None:
        """Send a chunk behind what is unsent, as far as the client keeps up.

        Args:
            data: Its content.

        Raises:
            MemoryError: There is no memory; nothing was written.
        """

    def resume(self) -> None:
        """Go on after the descriptor became writable."""

    def fileno(self) -> int:
        """The duplicate; -1 once closed."""

    @property
    def is_blocked(self) -> bool:
        """Whether the client does not keep up: call resume() when it is writable again."""

    @property
    def is_dead(self) -> bool:
        """Whether the connection is gone or closed; what is written is dropped then."""

    @property
    def num_sent_bytes(self) -> int:
        """Bytes that the kernel took, framing included."""

    @property
    def num_unsent_bytes(self) -> int:
        """Bytes that it has yet to take, or never took before the connection ended."""

    def conclude(self) -> bool:
        """End the answer, and the connection, without waiting for a client that takes nothing.

        Returns:
            Whether the kernel took all that was unsent and the last chunk, past the bound: a
            client that reads one day then sees the whole end. If not, the answer is cut off.
        """

    def abort(self) -> None:
        """Shut the connection down and drop what is unsent: the answer ends here, unfinished."""

    def close(self) -> None:
        """Close the duplicate; with bytes unsent, shut the connection down first.

        May be called again.

        Raises:
            RuntimeError: The stream is still in a drain.
        """

@final
class StreamDrain:
    """The streams of one hub, passed over together. The hub's thread only."""

    def __len__(self) -> int:
        """Streams in it."""

    def add(self, stream: DrainedStream) -> None:
        """Pass over a stream from now on.

        Raises:
            ValueError: It is in a drain already, or has no events to take.
        """

    def discard(self, stream: DrainedStream) -> None:
        """Leave a stream out from now on, if it is there.

        Raises:
            ValueError: It is in another drain.
        """

    def run(self) -> list[DrainedStream]:
        """Take and send what is ready, for all streams, without the GIL.

        Returns:
            Those that need Python: ended, asked to end, blocked, dead, failed, with an engine
            that has to be kicked, or with more to send than one pass takes.
        """
