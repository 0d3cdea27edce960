"""`python -m examples.flights`: the closed loop on a year of real flights, in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.errors import ModelyardError
from examples.flights.story import FAST, FULL, Story
from examples.flights.suite import Suite


def main(
    home: Annotated[Path, typer.Option(help="Folder that keeps everything.")] = Path(
        ".modelyard/demo"
    ),
    port: Annotated[int, typer.Option(help="Port of the gateway; others lie above it.")] = 8080,
    fast: Annotated[bool, typer.Option("--fast", help="Forty days of traffic, not five months.")] = False,
    keep: Annotated[
        bool | None,
        typer.Option(help="Leave the suite up at the end; by default on a terminal only."),
    ] = None,
) -> None:
    """Start the suite and walk the closed loop: features, training, traffic, drift, rollouts."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    suite = Suite(home, port)
    stay = sys.stdout.isatty() if keep is None else keep
    try:
        code = tell(suite, console, fast=fast)
        if stay and suite.started_here:
            console.print(f"\nthe suite stays up at {suite.url}/ until Ctrl-C")
            suite.wait()
    except ModelyardError as error:
        console.print(f"error: {error}", style="red", markup=False)
        code = 1
    except KeyboardInterrupt:
        code = 130
    finally:
        suite.stop()
    raise typer.Exit(code)


def tell(suite: Suite, console: Console, *, fast: bool) -> int:
    """Tells the whole story; gives the exit code, 0 when the loop has closed."""
    console.print("[bold]Modelyard[/]: will a flight land more than 15 minutes late?")
    console.print(f"  console  {suite.url}/   (API key in {suite.key_file})", highlight=False)
    console.print("\n[bold]1. The suite starts[/]")
    start(suite, console)
    console.print(f"  ready after {suite.seconds_to_ready:.1f} s", highlight=False)
    with suite.client() as client:
        outcome = Story(client, FAST if fast else FULL, console).run()
    return 1 if outcome.missing else 0


def start(suite: Suite, console: Console) -> None:
    """Starts the suite and draws how far it is."""
    columns = (
        TextColumn("  starting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[waiting]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=7, waiting="")

        def show(ready: dict[str, bool]) -> None:
            waiting = ", ".join(name for name, done in ready.items() if not done)
            bar.update(task, completed=sum(ready.values()), total=len(ready), waiting=waiting)

        suite.start(show)


if __name__ == "__main__":
    typer.run(main)
