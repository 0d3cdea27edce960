"""The `modelyard` command."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from client.cli_models import models
from client.errors import ModelyardError
from client.sdk import Client
from client.suite.plan import SuiteSettings
from client.suite.supervisor import (
    Supervisor,
    gateway_readiness,
    running_suite,
    stop_running,
    suites_below,
)

app = typer.Typer(
    help="Modelyard: registry, features, training, serving, experiments and drift in one loop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

HomeOption = Annotated[
    Path, typer.Option(envvar="MODELYARD_HOME", help="Folder that keeps everything.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_HOME = Path(".modelyard")


def suite_settings(home: Path, port: int) -> SuiteSettings:
    """Settings of a suite from the command line and the environment."""
    return SuiteSettings(
        home=home.resolve(),
        port=port,
        database_url=os.environ.get("MODELYARD_SUITE_DATABASE_URL", ""),
        redis_url=os.environ.get("MODELYARD_SUITE_REDIS_URL", ""),
    )


def start_with_progress(supervisor: Supervisor) -> float:
    """Starts a suite and draws how far it is."""
    columns = (
        TextColumn("starting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[waiting]}", style="dim"),
    )
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=len(supervisor.children), waiting="")

        def show(ready: dict[str, bool]) -> None:
            waiting = ", ".join(name for name, done in ready.items() if not done)
            bar.update(task, completed=sum(ready.values()), waiting=waiting)

        return supervisor.start(show)


@app.command()
def up(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[
        int, typer.Option(help="Port of the gateway; others lie above it.", min=1, max=65_400)
    ] = 8080,
) -> None:
    """Start the whole suite on this machine and keep it running until Ctrl-C."""
    supervisor = Supervisor(suite_settings(home, port))
    supervisor.on_signal()
    try:
        seconds = start_with_progress(supervisor)
        show_addresses(supervisor.settings, seconds)
        supervisor.watch()
    finally:
        supervisor.stop()
    out.print("stopped")


def show_addresses(settings: SuiteSettings, seconds: float) -> None:
    """Prints where the suite can be reached."""
    out.print(f"[bold green]ready[/] after {seconds:.1f} s")
    out.print(f"  console   {settings.url}/")
    out.print(f"  API       {settings.url}/docs")
    out.print(f"  MLflow    {settings.mlflow_url}/")
    out.print(f"  admin key {settings.keys('admin.key')}")
    out.print(f"  logs      {settings.home / 'logs'}")


@app.command()
def down(home: HomeOption = DEFAULT_HOME) -> None:
    """Stop the suite that runs in this home."""
    out.print(
        "stopped" if stop_running(home.resolve()) else none_here("down", home), soft_wrap=True
    )


def none_here(command: str, home: Path) -> str:
    """Says that no suite runs in a home, and how to reach those below it."""
    below = suites_below(home)
    if not below:
        return f"no suite runs in {home}: start one with `modelyard up`"
    lines = [f"  modelyard {command} --home {each}" for each in below]
    return "\n".join([f"no suite runs in {home}, but below it:", *lines])


@app.command()
def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Say what runs and whether it is ready."""
    state = running_suite(home.resolve())
    if state is None:
        err.print(none_here("status", home), soft_wrap=True)
        raise typer.Exit(1)
    if as_json:
        out.print_json(json.dumps(state))
        return
    ready = gateway_readiness(str(state["url"]))
    table = Table("process", "pid", "state")
    processes: dict[str, Any] = state["processes"]  # type: ignore[assignment]
    for name, pid in processes.items():
        if not pid:
            table.add_row(name, "", "[red]given up: it kept ending, see its log[/]")
        else:
            known = {True: "[green]ready[/]", False: "[yellow]not ready[/]", None: "runs"}
            table.add_row(name, str(pid), known[ready.get(name)])
    out.print(f"suite at {state['url']}")
    out.print(table)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="Resource, for example `models/late-arrival`.")],
) -> None:
    """Print a resource, or a listing such as `models`, as JSON."""
    with Client() as client:
        out.print_json(json.dumps(client.get(name)))


@app.command()
def predict(
    endpoint: Annotated[str, typer.Argument(help="Id of the endpoint.")],
    instance: Annotated[str, typer.Argument(help="Entity keys and request features as JSON.")],
) -> None:
    """Ask an endpoint for one prediction."""
    try:
        given = json.loads(instance)
    except ValueError as error:
        raise ModelyardError(f"the instance is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise ModelyardError("the instance must be a JSON object, for example '{\"hour\": 7}'")
    with Client() as client:
        answer = client.predict(endpoint, [given], return_features=True)
        out.print_json(json.dumps(answer[0]))


@app.command()
def shadows(
    endpoint: Annotated[str, typer.Argument(help="Id of the endpoint.")],
    hours: Annotated[float, typer.Option(help="How far back to look.")] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """Hold what shadows score against what is answered."""
    end = datetime.now(UTC)
    with Client() as client:
        found = client.compare_shadows(endpoint, start=end - timedelta(hours=hours), end=end)
    if as_json:
        out.print_json(json.dumps(found))
        return
    heads = ("shadow", "answered", "rows", "same class", "equal", "mean difference (95 %)")
    table = Table(*heads, "RMSE", "Pearson", "Spearman", "failed", "p50 ms", "answer ms")
    for each in found["comparisons"]:
        table.add_row(*_comparison(each))
    out.print(table)
    if found["truncated"]:
        out.print(f"from {found['start_time']} on: the window has more rows than one look reads")


def _comparison(each: dict[str, Any]) -> list[str]:
    def number(name: str, form: str = ".4g") -> str:
        return format(each[name], form) if each.get(name) is not None else "-"

    def median(name: str) -> str:
        return format(each[name]["p50_us"] / 1e3, ".2f") if each.get(name) else "-"

    ends = [number(f"mean_difference_{end}") for end in ("lower", "upper")]
    return [
        *(each["variant"], each["answered_variant"], str(each["rows"])),
        *(number("class_agreement", ".2%"), number("exact_agreement", ".2%")),
        f"{number('mean_difference')} [{', '.join(ends)}]",
        *(number("rmse"), number("pearson"), number("spearman"), str(each["failures"])),
        *(median("latency"), median("answered_latency")),
    ]


app.add_typer(models, name="models")

plugins = typer.Typer(help="Plugins: what is installed and whether it works.")
app.add_typer(plugins, name="plugins")


@plugins.command("list")
def list_plugins(as_json: JsonOption = False) -> None:
    """List the plugins of a suite by extension point."""
    with Client() as client:
        found = list(client.list("plugins", "plugins"))
    if as_json:
        out.print_json(json.dumps(found))
        return
    table = Table("plugin", "distribution", "version", "state", "reason")
    for each in found:
        state = each["state"].removeprefix("STATE_").lower()
        table.add_row(
            each["name"].removeprefix("plugins/"),
            each["distribution"],
            each["version"],
            state,
            each["reason"],
        )
    out.print(table)


@plugins.command("check")
def check_plugin(
    name: Annotated[str, typer.Argument(help="Plugin, for example `detectors.psi`.")],
) -> None:
    """Load a plugin and run the checks of its extension point."""
    with Client() as client:
        answer = client.post(f"plugins/{name}:check")
    for finding in answer["findings"]:
        out.print(f"[red]-[/] {finding}")
    if answer["findings"]:
        raise typer.Exit(1)
    out.print(f"[green]{name} is fine[/]")


def main() -> None:
    """Runs the command and says in one line what went wrong."""
    try:
        app()
    except ModelyardError as error:
        err.print(f"[red]error:[/] {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
