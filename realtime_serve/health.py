"""Health: what a server says of itself and its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from realtime_serve.model import Model, ModelState


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What a health check reports.

    Args:
        live: Whether the process can still be expected to serve again by itself.
        ready: Whether requests are served now, and may be sent here.
        draining: Whether the server is about to end, and so not ready.
        stuck: Whether an engine is at one step for so long that it will not be done soon.
        models: State of each model by name.
        failures: Why those that failed did, without what only the log may say.
        open_streams: Streams that have not ended.
        running: Requests that hold KV blocks in an engine.
        waiting: Requests that wait for a seat or for blocks.
    """

    live: bool
    ready: bool
    draining: bool
    stuck: bool
    models: Mapping[str, ModelState]
    failures: Mapping[str, str]
    open_streams: int
    running: int
    waiting: int

    @classmethod
    def of(
        cls,
        models: Sequence[Model],
        unopened: Mapping[str, str],
        *,
        serving: bool,
        draining: bool,
        open_streams: int,
        stuck_after_s: float,
        dead_after_s: float | None,
    ) -> Self:
        """The health of this instant.

        Args:
            models: All that are registered.
            unopened: Why others could not be, by name; those that are registered by now are
                left out.
            serving: Whether this process serves at all.
            draining: Whether it is about to end.
            open_streams: Streams that have not ended.
            stuck_after_s: A step that takes longer is stuck.
            dead_after_s: One that takes longer will never end; None is never.
        """
        step_s = max((model.step_s for model in models), default=0.0)
        stuck = step_s > stuck_after_s
        registered = {model.name: model.state for model in models}
        states = {**dict.fromkeys(unopened, ModelState.FAILED), **registered}
        # Of those only that had failed above: another may fail between the two readings.
        failed = [model for model in models if registered[model.name] is ModelState.FAILED]
        failures = {
            **{name: why for name, why in unopened.items() if name not in registered},
            **{model.name: model.failure for model in failed},
        }
        return cls(
            draining=draining,
            stuck=stuck,
            live=dead_after_s is None or step_s <= dead_after_s,
            ready=serving
            and not draining
            and not stuck
            and bool(models)
            and all(state is ModelState.READY for state in states.values()),
            models=states,
            failures={name: why for name, why in failures.items() if why},
            open_streams=open_streams,
            running=sum(model.num_running for model in models),
            waiting=sum(model.num_waiting for model in models),
        )
