"""ReaderLeases: how long a seat is kept for a reader that does not read.

Cleanup may not depend on anybody's close(): a reader can be forgotten while something still
refers to it, or be blocked in a send for ever. So the right to a seat is lent, and whatever its
reader does renews it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

from realtime_serve._token_ring import TokenRing


class RingOwner(Protocol):
    """Whoever fills a ring: a sequence, for one."""

    ring: TokenRing


Owner = TypeVar("Owner", bound=RingOwner)


class _Lease(NamedTuple):
    """Until when an owner may stay, unless its reader's activity goes on from there."""

    activity: int
    ends_at_s: float


class ReaderLeases(Generic[Owner]):
    """The leases of those whose rings are full. Time is passed in.

    A lease begins, and is renewed, when a step sees it; a reader that does something between
    two steps and then nothing more has up to twice its time.

    Args:
        lease_s: How long a reader may do nothing; 0 allows no full ring, None sets no limit.
    """

    def __init__(self, lease_s: float | None) -> None:
        self._lease_s = lease_s
        self._leases: dict[Owner, _Lease] = {}

    def lapsed(self, waiting: Iterable[Owner], now_s: float) -> list[Owner]:
        """Find those whose readers have done nothing for too long.

        Args:
            waiting: All that wait for room in their rings.
            now_s: The instant; never before that of an earlier call.

        Returns:
            Those that have to end now; their leases are gone.
        """
        if self._lease_s is None:
            return []
        held, self._leases = self._leases, {}  # the others have room, or are gone
        for owner in waiting:
            activity = owner.ring.reader_activity()
            lease = held.get(owner)
            if lease is None or lease.activity != activity:
                lease = _Lease(activity, now_s + self._lease_s)
            self._leases[owner] = lease
        lapsed = [each for each, lease in self._leases.items() if lease.ends_at_s <= now_s]
        for owner in lapsed:
            del self._leases[owner]
        return lapsed

    @property
    def next_end_at_s(self) -> float | None:
        """When the next lease ends, if nothing renews it; None if there is none."""
        return min((lease.ends_at_s for lease in self._leases.values()), default=None)
