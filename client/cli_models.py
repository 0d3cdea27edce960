"""`modelyard models`: model files that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from client.errors import ModelyardError
from client.sdk import Client

models = typer.Typer(help="Models: registering files that were trained elsewhere.")
out = Console()


@models.callback()
def _group() -> None:
    """Keeps `register` a command of its own, though it is the only one."""


@models.command()
def register(
    model: Annotated[str, typer.Argument(help="Id of the model; created when missing.")],
    file: Annotated[Path, typer.Argument(help="Model file.", exists=True, dir_okay=False)],
    sample: Annotated[
        Path,
        typer.Option(
            help="Rows for the model, a column for each input: Parquet, CSV or Arrow.",
            exists=True,
            dir_okay=False,
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="lightgbm, xgboost, skops or onnx; by the file's ending otherwise."
        ),
    ] = "",
    convert: Annotated[
        bool, typer.Option(help="Convert to ONNX; otherwise it is registered as it is.")
    ] = True,
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Quantize the ONNX file to INT8.")
    ] = False,
    tolerance: Annotated[
        float | None, typer.Option(help="Difference that a score may have; 0.0001 by default.")
    ] = None,
    owner: Annotated[str, typer.Option(help="Owner of the model.")] = "",
) -> None:
    """Store a model file, convert it, compare both on the sample, and register the version."""
    with Client() as client:
        version = client.register_model(
            model,
            file,
            read_rows(sample),
            format=form,
            convert=convert,
            quantize=quantize,
            tolerance=tolerance,
            owner=owner,
        )
    out.print(f"[green]{version['name']}[/] served by {version['runtime']}")
    for report in version["parity_reports"]:
        made = "[green]✓[/]" if report["passed"] else "[yellow]no[/]"
        out.print(f"  {made} {report['method']}: {report['reason']}", soft_wrap=True)


def read_rows(path: Path) -> Any:
    """Reads a table.

    Raises:
        ModelyardError: It is no Parquet, CSV or Arrow file.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    readers = {
        ".arrow": lambda: pa.ipc.open_stream(path).read_all(),
        ".csv": lambda: csv.read_csv(path),
        ".parquet": lambda: parquet.read_table(path),
    }
    try:
        return readers[path.suffix.lower()]()
    except (KeyError, OSError, ValueError) as error:
        raise ModelyardError(
            f"{path.name} can't be read as a table: name it .parquet, .csv or .arrow, as it is"
        ) from error
