"""Draw a run's figures: python -m peers.plot IN.json OUT.png; cwd is the folder above."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bars import draw
from peers.results import Results, product

COLOURS = {"realtime-serve": "tab:green", "vllm": "tab:orange", "llama.cpp": "tab:blue"}

FAINTEST = 0.45
"""Opacity of a product's last precision; its first one is opaque."""


def _opacity(name: str, names: list[str]) -> float:
    """Tells the precisions of one product apart."""
    same = [each for each in names if product(each) == product(name)]
    step = (1 - FAINTEST) / max(1, len(same) - 1)
    return 1 - step * same.index(name)


def main() -> None:
    """Run the command."""
    source, target = map(Path, sys.argv[1:])
    results = Results.from_json(json.loads(source.read_text()))
    names = list(results.values)

    def style(name: str) -> tuple[str, float]:
        return COLOURS[product(name)], _opacity(name, names)

    draw(results, results.metrics(), style, target)


if __name__ == "__main__":
    main()
