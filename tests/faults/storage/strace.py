"""Make a node's system calls fail, hang or kill it, through strace's injection."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.polling import wait_until
from tests.support.process import Node


def prefix(*injections: str, paths: Sequence[Path] = (), out: str = "/dev/null") -> list[str]:
    """A Node prefix that runs it under strace from its first call.

    Args:
        injections: as behind `-e inject=`, e.g. "fdatasync:error=EIO:when=3". `when` counts calls
            of each thread. A bare name is traced only.
        paths: only calls on these very paths.
        out: where the trace goes.

    -D makes the node the direct child and strace the bystander, so signals reach the node.
    """
    return ["strace", "-D", *_arguments(injections, paths, out)]


@contextmanager
def attached(
    node: Node,
    *injections: str,
    paths: Sequence[Path] = (),
    out: str = "/dev/null",
    names: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Inject into all threads of a running node until the block ends.

    names: whether the trace shows what descriptors are open on.
    """
    shown = ["-y"] if names else []
    tracer = subprocess.Popen(
        ["strace", *shown, *_arguments(injections, paths, out), "-p", str(node.pid)],
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: _traced(node.pid, tracer), "strace to attach")
        yield tracer
    finally:
        tracer.send_signal(signal.SIGINT)
        _, errors = tracer.communicate(timeout=60)
        assert b"invalid" not in errors, errors


def injected(trace: Path) -> int:
    """How many calls in a trace file were tampered with: a fault test asserts its fault."""
    return trace.read_text(errors="replace").count("(INJECTED")


def _arguments(injections: Sequence[str], paths: Sequence[Path], out: str) -> list[str]:
    calls = ",".join(dict.fromkeys(i.partition(":")[0] for i in injections))
    arguments = ["-f", "-qq", "-o", out, "-e", f"trace={calls}"]
    for injection in (i for i in injections if ":" in i):
        arguments += ["-e", f"inject={injection}"]
    for path in paths:
        arguments += ["-P", str(path)]
    return arguments


def _traced(pid: int, tracer: subprocess.Popen[bytes]) -> bool:
    assert tracer.poll() is None, (
        f"strace ended: {tracer.stderr.read() if tracer.stderr else b''!r}"
    )
    threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names only
    return all(
        f"TracerPid:\t{tracer.pid}\n" in Path(f"/proc/{pid}/task/{t}/status").read_text()
        for t in threads
    )
