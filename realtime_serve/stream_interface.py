"""What a stream and its neighbours see of each other: its queue, its events, who sends them."""

from __future__ import annotations

from typing import Protocol

from realtime_serve.errors import ServeError
from realtime_serve.types import Loading, Queued


class Admission(Protocol):
    """What a stream asks of the queue it waits in."""

    def remove(self, handle: int) -> bool:
        """Take a request that is not seated out of the queue."""

    def kick(self) -> None:
        """Wake the inference thread."""

    def progress(self, handle: int) -> Loading | Queued | None:
        """What a request waits for; None once it is seated."""


class EventSource(Protocol):
    """What takes a stream's tokens and makes events of them: EventStream or SocketStream."""

    def take(self) -> bytes:
        """Take the tokens that are ready; returns the events that the caller has to send."""

    @property
    def end_state(self) -> int:
        """The ring's terminal state once the last token was taken; OPEN before."""

    def take_starved(self) -> bool:
        """Whether the engine has to be kicked; True once."""


class SentStream(Protocol):
    """What the sender of a stream's events tells the stream."""

    def renew_lease(self) -> None:
        """The client is slow, but takes what it is sent. Any thread."""

    def cancel(self, error: ServeError | None = None) -> None:
        """The client has gone or, with an error, is given up. May be called again. Any thread."""
