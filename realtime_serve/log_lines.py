"""Where our log lines go, and how many could not be written there.

A full disk or a closed stderr costs the line, and never the request that it is about.
"""

from __future__ import annotations

import logging

LOGGER = "realtime_serve"
"""Every logger of this package is below it."""


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show our log lines on stderr, unless the surrounding program has set up logging."""
    logger = logging.getLogger(LOGGER)
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = _CountingHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def num_dropped_lines() -> int:
    """Lines of this process that stderr did not take; where another program logs, it knows."""
    handlers = logging.getLogger(LOGGER).handlers
    return sum(each.num_dropped for each in handlers if isinstance(each, _CountingHandler))


class _CountingHandler(logging.StreamHandler):  # type: ignore[type-arg] # none at run time
    """Counts what it cannot write, where logging would complain about it on the same stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.num_dropped = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """See logging.Handler; called under the handler's lock."""
        self.num_dropped += 1
