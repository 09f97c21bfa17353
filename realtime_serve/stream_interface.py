"""What a stream's consumer sees of its neighbours: the queue, and what makes its events."""

from __future__ import annotations

from typing import Protocol

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
