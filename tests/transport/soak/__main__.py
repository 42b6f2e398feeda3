"""Load a node over HTTP/2 for some minutes, and say whether what it holds stayed flat."""

from __future__ import annotations

import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import click

from federation.core.clock import SystemClock
from tests.support.process import Node
from tests.transport.soak.load import Load
from tests.transport.soak.watch import Sample, growth, left

_SAMPLES = 240  # in all, if that is not more often than each second
_CALM_S = 60.0  # for what is left of the load to end
_SETTINGS = {
    # It evicts all the time, and in good time.
    "storage": {"quota": "1G", "lease": "10s", "high-watermark": 0.5, "low-watermark": 0.3},
    "limits": {"upload-idle": "10s", "stall": "20s", "first-message": "20s"},
    "log": {"level": "error"},
}
_clock = SystemClock()


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--clients", default=8, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--transport", default="http2", show_default=True)
def main(minutes: float, clients: int, seed: int, transport: str) -> None:
    """Exit with 1 if something grew or was left, or an honest client had trouble."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        troubles = soak(Path(folder), 60 * minutes, clients, seed, transport)
    click.echo("\n".join(troubles) or "flat")
    sys.exit(1 if troubles else 0)


def soak(
    folder: Path, seconds: float, clients: int, seed: int, transport: str = "http2"
) -> list[str]:
    """Return what did not hold."""
    pause = threading.Event()  # nobody sets it
    with Node(folder / "data", {**_SETTINGS, "transport": transport}) as node:
        node.start()
        began_s = _clock.monotonic_s()
        before = sample(node, 0)
        load = Load(node.address, clients, seed)
        samples = []
        while (passed_s := _clock.monotonic_s() - began_s) < seconds:
            samples.append(sample(node, passed_s))
            if len(samples) % (_SAMPLES // 24) == 1:
                click.echo(samples[-1])
            pause.wait(max(1.0, seconds / _SAMPLES))
        load.end()
        after = sample(node, seconds)
        while left(before, after) and after.at_s < seconds + _CALM_S:
            pause.wait(1.0)
            after = sample(node, after.at_s + 1.0)
        click.echo(f"{after}, after the load; CPU {node.cpu_s():.0f} s")
        for name, count in sorted(load.counts.items()):
            click.echo(f"{count:8} {name}")
        ended = {"the node ended"} if not node.running else set()
    troubles = [f"{count} times {name}" for name, count in sorted(load.troubles.items())]
    return [*ended, *growth(samples), *left(before, after), *troubles]


def _own_mib(pid: int) -> float:
    """Return the memory of its own that a process has, without pages of files (proc_pid_status)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def sample(node: Node, at_s: float) -> Sample:
    """Return what the node holds now."""
    metrics = node.metrics()
    open_ = []
    for each in Path(f"/proc/{node.pid}/fd").iterdir():
        with suppress(OSError):  # it is closed meanwhile
            open_.append(str(each.readlink()))
    return Sample(
        at_s,
        _own_mib(node.pid),
        len(open_),
        sum(each.startswith("socket:") for each in open_),
        node.threads(),
        int(metrics.value("federation_requests_running")),
        int(metrics.value("federation_uploads_open")),
    )


if __name__ == "__main__":
    main()
