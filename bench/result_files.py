"""What a comparison leaves behind: NAME.json, NAME.md and NAME.png in one folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from figures import Figures
from peers.environments import Environments

BENCH = Path(__file__).resolve().parent

RESULTS = BENCH / "results"
"""Where these files go if nobody says otherwise."""


def write(folder: Path, name: str, figures: Figures, report: str) -> None:
    """Write the figures and the table, over those of that name."""
    (folder / f"{name}.json").write_text(json.dumps(figures.as_json(), indent=2) + "\n")
    (folder / f"{name}.md").write_text(report + "\n")


def plot(folder: Path, name: str, module: str, environments: Environments) -> None:
    """Draw NAME.json with matplotlib, which has an environment of its own.

    Args:
        folder: Of the files.
        name: Their name.
        module: What draws; gets both paths as its arguments.
        environments: Where matplotlib is. Without it, that is said and nothing drawn.
    """
    if not environments.plot_python.exists():
        print("No plot: bench/peers/setup_peers.py makes what draws it.", file=sys.stderr)
        return
    files = [str((folder / f"{name}{suffix}").absolute()) for suffix in (".json", ".png")]
    command = [str(environments.plot_python), "-m", module, *files]
    subprocess.run(command, cwd=BENCH, check=True)
