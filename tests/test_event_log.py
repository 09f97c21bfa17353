"""The log gives back what it was given, by number, and forgets what it is told to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realtime_serve.event_log import Event, EventLog

EVENTS = st.one_of(st.text(max_size=20), st.binary(min_size=1, max_size=20))


class LogMachine(RuleBasedStateMachine):
    """Beside the log a list of all events ever added."""

    def __init__(self) -> None:
        super().__init__()
        self.log = EventLog()
        self.events: list[Event] = []

    @rule(event=EVENTS)
    def append(self, event: Event) -> None:
        self.log.append(event)
        self.events.append(event)

    @rule(share=st.floats(0, 1))
    def drop(self, share: float) -> None:
        number = int(share * len(self.events))
        first = max(self.log.first, number)
        self.log.drop_before(number)
        assert self.log.first == first

    @rule(share=st.floats(0, 1), max_events=st.integers(0, 10))
    def read(self, share: float, max_events: int) -> None:
        first, end = self.log.first, self.log.end
        number = first + int(share * (end - first))
        assert self.log.read(number, max_events) == self.events[number : number + max_events]

    @precondition(lambda self: self.events)
    @invariant()
    def has_its_bounds(self) -> None:
        assert self.log.end == len(self.events)
        assert self.log.read(self.log.first, len(self.events)) == self.events[self.log.first :]

    @invariant()
    def knows_its_size(self) -> None:
        kept = self.events[self.log.first :]
        texts = sum(len(event.encode() if isinstance(event, str) else event) for event in kept)
        assert self.log.num_bytes == texts + 8 * len(kept)


TestLogMachine = LogMachine.TestCase


@given(st.lists(st.text(min_size=1, max_size=8), max_size=50), st.data())
def test_whatever_is_cut_each_event_is_read_exactly_once(
    texts: list[str], data: st.DataObject
) -> None:
    """A reader that forgets some of what it has read, as a client whose connection was cut."""
    log = EventLog()
    had: list[Event] = []
    for text in texts:
        log.append(text)
        if data.draw(st.booleans()):
            read = log.read(len(had), data.draw(st.integers(1, 5)))
            had += read[: data.draw(st.integers(0, len(read)))]
    log.append(b"the end")
    log.close()
    had += log.read(len(had), len(texts) + 1)
    assert had == [*texts, b"the end"]


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    log = EventLog()
    log.append("a\ud800b")
    assert log.read(0, 1) == ["a?b"]


def test_a_text_takes_its_bytes_and_eight_more() -> None:
    log = EventLog()
    for _ in range(1000):
        log.append(" word")
    assert log.num_bytes == 1000 * (5 + 8)
    log.drop_before(1000)
    assert log.num_bytes == 0


@pytest.mark.parametrize("number", [0, 3])
def test_what_is_not_there_is_never_given(number: int) -> None:
    log = EventLog()
    log.append("a")
    log.append("b")
    log.drop_before(1)
    with pytest.raises(AssertionError):
        log.read(number, 1)


def test_nothing_comes_after_the_end() -> None:
    log = EventLog()
    log.close()
    assert log.closed
    with pytest.raises(AssertionError):
        log.append("more")
