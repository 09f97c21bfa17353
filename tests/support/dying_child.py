"""Stands in for the packing process, and ends as its arguments' dtype says: by a signal or so."""

from __future__ import annotations

import os
import sys

import realtime_serve

assert realtime_serve.__file__  # it finds the package as the real one does
print("some library says hello")
print('["json", "but no message"]', flush=True)

match os.environ["DYING_CHILD"]:
    case "status":
        sys.exit(3)
    case signal_number:
        os.kill(os.getpid(), int(signal_number))
