"""Draw a run's figures: python -m streaming.plot IN.json OUT.png; cwd is the folder above."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bars import draw
from streaming.candidates import Role
from streaming.results import StreamingResults

COLOURS = {Role.OURS: "tab:green", Role.FLOOR: "tab:grey", Role.PEER: "tab:blue"}


def main() -> None:
    """Run the command."""
    source, target = map(Path, sys.argv[1:])
    results = StreamingResults.from_json(json.loads(source.read_text()))

    def style(name: str) -> tuple[str, float]:
        return COLOURS[Role(results.roles[name])], 1.0

    draw(results, results.metrics(), style, target)


if __name__ == "__main__":
    main()
