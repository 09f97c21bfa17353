"""The token bucket, against a clock that stands still unless it is moved."""

import pytest

from realtime_serve.errors import RateLimitedError
from realtime_serve.middleware import RateLimiter, RequestContext


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def ask(limiter: RateLimiter, client: str = "c") -> dict[str, str]:
    """Make one request; returns the headers it would be answered with."""
    context = RequestContext(
        request_id="r", client_id=client, method="POST", route="/v1/x", started_at_s=0.0
    )
    limiter.before_request(context)
    return context.headers


def num_allowed(limiter: RateLimiter, attempts: int) -> int:
    allowed = 0
    for _ in range(attempts):
        try:
            ask(limiter)
        except RateLimitedError:
            continue
        allowed += 1
    return allowed


def test_the_burst_is_allowed_and_then_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(60, burst=5, clock=clock)
    assert num_allowed(limiter, 20) == 5
    clock.now_s += 3.0
    assert num_allowed(limiter, 20) == 3


def test_an_idle_client_saves_up_no_more_than_the_burst() -> None:
    clock = Clock()
    limiter = RateLimiter(60, burst=5, clock=clock)
    ask(limiter)
    clock.now_s += 1e6
    assert num_allowed(limiter, 20) == 5


def test_a_refusal_says_exactly_when_the_next_request_is_allowed() -> None:
    clock = Clock()
    limiter = RateLimiter(30, burst=1, clock=clock)
    ask(limiter)
    with pytest.raises(RateLimitedError) as caught:
        ask(limiter)
    assert caught.value.retry_after_s == pytest.approx(2.0)
    clock.now_s += 1.99
    assert num_allowed(limiter, 1) == 0
    clock.now_s += 0.02
    assert num_allowed(limiter, 1) == 1


def test_clients_do_not_share_a_bucket() -> None:
    limiter = RateLimiter(60, burst=1, clock=Clock())
    ask(limiter, "a")
    ask(limiter, "b")
    with pytest.raises(RateLimitedError):
        ask(limiter, "a")


def test_a_flood_of_clients_does_not_grow_the_table() -> None:
    limiter = RateLimiter(60, burst=2, max_clients=10, clock=Clock())
    for number in range(1000):
        ask(limiter, f"client-{number}")
    ask(limiter, "client-999")
    with pytest.raises(RateLimitedError):  # the latest are still known
        ask(limiter, "client-999")
    assert ask(limiter, "client-0")["x-ratelimit-remaining-requests"] == "1"  # forgotten


def test_answers_carry_openais_headers() -> None:
    limiter = RateLimiter(60, burst=10, clock=Clock())
    ask(limiter)
    assert ask(limiter) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "8",
        "x-ratelimit-reset-requests": "2s",
    }


@pytest.mark.parametrize(
    ("rpm", "burst", "reset"),
    [(6000, 10, "10ms"), (40, 10, "1.5s"), (1, 10, "1m0s"), (60 / 119.5, 10, "2m0s")],
)
def test_the_reset_is_spelt_as_openai_does(rpm: float, burst: int, reset: str) -> None:
    headers = ask(RateLimiter(rpm, burst, clock=Clock()))
    assert headers["x-ratelimit-reset-requests"] == reset
