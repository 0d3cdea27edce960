"""`python -m bench.serving.hammer`: a suite with the benchmark's endpoints, hammered until Ctrl-C.

Prints throughput, latency and CPU by part for each workload, again and again; `--hold` only keeps
the suite up and says how to ask it.
"""

from __future__ import annotations

import argparse
import time

from rich.console import Console

from bench.serving.__main__ import HOME
from bench.serving.catalogue import contenders
from bench.serving.contender import Place, Running
from bench.serving.model import make_model
from bench.serving.modelyard import Modelyard
from bench.serving.runner import chosen, measure


def main() -> None:
    """Starts, hammers, and stops."""
    suites = {each.name: each for each in contenders() if isinstance(each, Modelyard)}
    parser = argparse.ArgumentParser(prog="python -m bench.serving.hammer", description=__doc__)
    parser.add_argument("--of", default="modelyard", choices=suites, help="what is asked")
    parser.add_argument("--workloads", default="", help="row1,row32,batch8,binary8")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--times", type=int, default=1_000_000, help="how often all of it")
    parser.add_argument("--hold", action="store_true", help="only keep it up")
    options = parser.parse_args()
    place = Place(HOME, (make_model(HOME / "models", 1), make_model(HOME / "models", 2)))
    console = Console()
    running = suites[options.of].start(place)
    try:
        show(running, console)
        for _ in range(options.times):
            if options.hold:
                time.sleep(60)
            else:
                hammer(running, options, console)
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        running.tree.stop()


def show(running: Running, console: Console) -> None:
    """Says where it is."""
    console.print(f"gateway {running.base}, admin key in {HOME}/run/suite/keys/admin.key")
    for exchange in {each.path: each for each in running.exchanges.values()}.values():
        console.print(f"  POST {exchange.path}")


def hammer(running: Running, options: argparse.Namespace, console: Console) -> None:
    """Measures each workload once."""
    for workload in chosen([each for each in options.workloads.split(",") if each]):
        if workload.name in running.exchanges:
            got, _ = measure(running, workload, options.seconds)
            parts = ", ".join(f"{name} {us:.0f}" for name, us in got.cpu_us_by_part.items())
            console.print(
                f"{workload.name:8} {got.rps:8,.0f} req/s  p50 {got.p50_ms:.2f}  "
                f"p99 {got.p99_ms:.2f} ms  CPU {got.cpu_us:,.0f} µs ({parts})  "
                f"errors {got.errors}",
                highlight=False,
                soft_wrap=True,
            )


if __name__ == "__main__":
    main()
