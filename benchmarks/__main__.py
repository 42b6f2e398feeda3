"""`python -m benchmarks`: run the rows and print the table."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click
import grpc
import structlog

from benchmarks import machine, report
from benchmarks.base import RowSpec
from benchmarks.http import rows as http_rows
from benchmarks.http.servers import HTTP_SERVERS
from benchmarks.link import WrongAnswerError
from benchmarks.measure import Bench, Result
from benchmarks.mirror import measure as mirror_measure
from benchmarks.mirror import report as mirror_report
from benchmarks.mirror import rows as mirror_rows
from benchmarks.mirror.site import PROXIES
from benchmarks.process import Server, ServerFailedError
from benchmarks.replication import measure as replication_measure
from benchmarks.replication import report as replication_report
from benchmarks.replication import rows as replication_rows
from benchmarks.replication.site import RECEIVERS
from benchmarks.rows import all_rows
from benchmarks.servers import SERVERS
from benchmarks.site import rows as site_rows
from benchmarks.site.servers import SITE_SERVERS
from federation.server.process import keep_freed_memory

_NAMES = [
    *all_rows(quick=True),
    *http_rows.all_rows(quick=True),
    *mirror_rows.all_rows(quick=True),
    *replication_rows.all_rows(quick=True),
    *site_rows.all_rows(quick=True),
]
_SERVERS = list({**SERVERS, **HTTP_SERVERS, **SITE_SERVERS})
_Spec = TypeVar("_Spec", RowSpec, mirror_measure.MirrorSpec, replication_measure.ReplicationSpec)
_FAILURES = (ServerFailedError, WrongAnswerError, grpc.RpcError)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only", multiple=True, metavar="ROW", help=f"Rows to run (repeatable): {', '.join(_NAMES)}."
)
@click.option("--server", "names", multiple=True, type=click.Choice(_SERVERS), help="Default: all.")
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
    """Measure this node beside buildbox-casd, BuildGrid and nginx, each in its own process.

    The rows of a shared site need tests/servers/install.
    """
    unknown = [name for name in only if name not in _NAMES]
    if unknown:
        raise click.BadParameter(f"no such row: {', '.join(unknown)}", param_hint="--only")
    if quick:
        repeat, seconds = 1, 0.05
    # Else what this client spends on page faults hides what the servers differ in.
    keep_freed_memory()
    # Rows that use the node's storage themselves must not log into what is printed.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    facts = machine.describe(home or Path(tempfile.gettempdir()))
    show = _nothing if as_json else _print
    show(facts)
    run = _Run(only or _NAMES, names or _SERVERS, home, quick, show)
    results = run.rows(all_rows(quick=quick), SERVERS, repeat, seconds)
    over_http = run.rows(http_rows.all_rows(quick=quick), HTTP_SERVERS, repeat, seconds)
    ways = run.mirrors(repeat)
    arrivals = run.replications(repeat)
    on_site = run.rows(site_rows.all_rows(quick=quick), SITE_SERVERS, repeat, seconds)
    if as_json:
        found = {
            "machine": facts,
            "results": report.as_json(results),
            "http": report.as_json(over_http),
            "mirror": mirror_report.as_json(ways),
            "replication": replication_report.as_json(arrivals),
            "site": report.as_json(on_site),
        }
        print(json.dumps(found, indent=1))


class _Run:
    """The chosen rows over the chosen servers, each row below a folder of its own.

    A folder for each row, so that what one row wrote is gone before the next.
    """

    def __init__(
        self,
        only: Sequence[str],
        servers: Sequence[str],
        home: Path | None,
        quick: bool,
        show: Callable[[str], None],
    ) -> None:
        self._only = only
        self._servers = servers
        self._home = home
        self._quick = quick
        self._show = show

    def rows(
        self,
        rows: Mapping[str, RowSpec],
        servers: Mapping[str, type[Server]],
        repeat: int,
        seconds: float,
    ) -> list[Result]:
        """Run rows of single servers."""
        names = [name for name in self._servers if name in servers]
        kinds = [servers[name] for name in names]
        results: list[Result] = []
        for spec in self._chosen(rows, report.header(names)):
            with self._folder(spec.name) as folder:
                measured = Bench(kinds, folder, repeat=repeat, seconds=seconds).run(spec)
                # Before the clean-up, which takes a while after a million files.
                self._show(report.line(measured, names))
            results += measured
        return results

    def mirrors(self, repeat: int) -> list[mirror_measure.Way]:
        """Run the rows of reads through proxies."""
        proxies = [name for name in self._servers if name in PROXIES]
        ways: list[mirror_measure.Way] = []
        for spec in self._chosen(mirror_rows.all_rows(quick=self._quick), mirror_report.header()):
            with self._folder(spec.name) as folder:
                measured = mirror_measure.run(spec, folder, proxies, repeat)
                self._show(mirror_report.lines(measured))
            ways += measured
        return ways

    def replications(self, repeat: int) -> list[replication_measure.Arrival]:
        """Run the rows of a node and its peer."""
        peers = [name for name in self._servers if name in RECEIVERS]
        arrivals: list[replication_measure.Arrival] = []
        rows = replication_rows.all_rows(quick=self._quick)
        for spec in self._chosen(rows, replication_report.header()):
            measured = []
            for peer in peers:
                with self._folder(spec.name) as folder:
                    measured.append(spec.measure(spec, folder, peer, repeat))
            self._show(replication_report.lines(measured))
            arrivals += measured
        return arrivals

    def _chosen(self, rows: Mapping[str, _Spec], header: str) -> list[_Spec]:
        chosen = [spec for name, spec in rows.items() if name in self._only]
        if chosen:
            self._show(f"\n{header}")
        return chosen

    @contextmanager
    def _folder(self, name: str) -> Iterator[Path]:
        print(f"{name} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=self._home, prefix="benchmark-") as folder:
            Path(folder).chmod(0o711)  # PostgreSQL runs as another user
            try:
                yield Path(folder)
            except _FAILURES as error:
                raise click.ClickException(f"{name}: {error}") from error


def _print(text: str) -> None:
    print(text, flush=True)


def _nothing(text: str) -> None:
    del text


if __name__ == "__main__":
    main()
