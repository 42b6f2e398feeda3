"""`python -m benchmarks`: run the rows and print the table."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import grpc
import structlog

from benchmarks import machine, report
from benchmarks.link import WrongAnswerError
from benchmarks.measure import Bench, Result
from benchmarks.process import ServerFailedError
from benchmarks.rows import all_rows
from benchmarks.servers import SERVERS

_NAMES = list(all_rows(quick=True))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only", multiple=True, metavar="ROW", help=f"Rows to run (repeatable): {', '.join(_NAMES)}."
)
@click.option(
    "--server", "names", multiple=True, type=click.Choice(list(SERVERS)), help="Default: all."
)
@click.option("--repeat", default=5, type=click.IntRange(1), help="Rounds of each row.")
@click.option("--seconds", default=0.5, type=click.FloatRange(0.01), help="Length of a round.")
@click.option("--quick", is_flag=True, help="Small blobs, one short round: does it still run?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the servers' directories go; default: a temporary folder.",
)
def main(
    only: tuple[str, ...],
    names: tuple[str, ...],
    repeat: int,
    seconds: float,
    quick: bool,
    as_json: bool,
    home: Path | None,
) -> None:
    """Measure this node beside buildbox-casd and BuildGrid, each in its own process."""
    rows = all_rows(quick=quick)
    unknown = [name for name in only if name not in rows]
    if unknown:
        raise click.BadParameter(f"no such row: {', '.join(unknown)}", param_hint="--only")
    chosen = [rows[name] for name in only] or list(rows.values())
    kinds = [SERVERS[name] for name in names] or list(SERVERS.values())
    shown = [kind.name for kind in kinds]
    if quick:
        repeat, seconds = 1, 0.05
    # Rows that use the node's storage themselves must not log into what is printed.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    facts = machine.describe(home or Path(tempfile.gettempdir()))
    if not as_json:
        print(f"{facts}\n\n{report.header(shown)}")
    results: list[Result] = []
    for spec in chosen:
        print(f"{spec.name} …", file=sys.stderr)
        # A folder for each row, so that what one row wrote is gone before the next.
        with tempfile.TemporaryDirectory(dir=home, prefix="benchmark-") as folder:
            bench = Bench(kinds, Path(folder), repeat=repeat, seconds=seconds)
            try:
                measured = bench.run(spec)
            except (ServerFailedError, WrongAnswerError, grpc.RpcError) as error:
                raise click.ClickException(f"{spec.name}: {error}") from error
            if not as_json:  # before the clean-up, which takes a while after a million files
                print(report.line(measured, shown), flush=True)
        results += measured
    if as_json:
        print(json.dumps({"machine": facts, "results": report.as_json(results)}, indent=1))


if __name__ == "__main__":
    main()
