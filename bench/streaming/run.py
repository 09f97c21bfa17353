"""Compare how servers stream: python bench/streaming/run.py --help."""

import signal
import sys
from pathlib import Path


def main() -> int:
    """Run the command with the folder of the shared helpers on the path instead of this one."""
    # Either way of being stopped must stop the server that is being measured.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from streaming.command import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
