"""`python -m bench.serving`: measures online inference and writes the page of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.serving import catalogue, page, table
from bench.serving.contender import WORKLOADS, Contender, Place
from bench.serving.load import missing_generators
from bench.serving.model import make_model
from bench.serving.results import Results
from bench.serving.runner import Runner, chosen

HOME = Path(".bench")
PAGES = Path("docs/benchmarks")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    names = [each.name for each in catalogue.contenders()]
    loads = [each.name for each in WORKLOADS]
    parser.add_argument("--only", default="", help=f"servers, by commas: {', '.join(names)}")
    parser.add_argument("--workloads", default="", help=f"by commas: {', '.join(loads)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure and round")
    parser.add_argument("--output", type=Path, help="folder for page, plot and JSON")
    found = parser.parse_args(given)
    for option, known in (("only", names), ("workloads", loads)):
        listed = [each for each in getattr(found, option).split(",") if each]
        if unknown := [each for each in listed if each not in known]:
            parser.error(f"--{option}: unknown: {', '.join(unknown)}")
        setattr(found, option, listed)
    return found


def selected(names: Sequence[str]) -> Sequence[Contender]:
    """Servers by their names; all when there are none."""
    return [each for each in catalogue.contenders() if not names or each.name in names]


def run(options: argparse.Namespace, console: Console) -> Results:
    """Measures, with a progress bar."""
    place = Place(HOME, (make_model(HOME / "models", 1), make_model(HOME / "models", 2)))
    runner = Runner(
        selected(options.only),
        chosen(options.workloads),
        place,
        options.rounds,
        options.seconds,
    )
    text = TextColumn("{task.description}")
    columns = (BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn(), text)
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=runner.steps)

        def step(doing: str) -> None:
            bar.update(task, advance=1, description=doing)

        return runner.run(step)


def main() -> int:
    """Runs it; 1 when something is missing."""
    console = Console()
    options = arguments()
    if missing := missing_generators():
        console.print(f"install the load generators first: apt-get install {' '.join(missing)}")
        return 1
    results = run(options, console)
    table.show(results, console)
    output = options.output
    if output is None:
        partial = options.only or options.workloads
        output = HOME / "results" if partial else PAGES
    page.write(results, output)
    console.print(f"written to {output}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
