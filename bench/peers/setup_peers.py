"""Make what the comparison needs, outside the repository: bench/peers/setup_peers.py --help."""

import sys
from pathlib import Path


def main() -> int:
    """Run the command with the folder above this one on the path instead of this one."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from peers.setup_command import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
