"""A BuildStream project of many files, and users of it, for real pushes and pulls."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from benchmarks import install
from benchmarks.process import ServerFailedError

ELEMENT = "files.bst"
_FOLDERS = 50
_SIZES = (120, 700, 1500, 3000, 6000, 14_000, 40_000)  # of files in turn, as sources have them
_LARGE_BYTES = 5_000_000  # one file that no batch takes
_TIMEOUT_S = 600.0


class Project:
    """One element that imports an archive; who has not fetched that needs a cache."""

    def __init__(self, root: Path, files: int) -> None:
        self.root = root
        origin = root / "origin"
        origin.mkdir(parents=True)
        (root / "elements").mkdir()
        (root / "project.conf").write_text(
            "name: many\nmin-version: 2.0\nelement-path: elements\n"
            f"aliases: {{origin: '{origin.as_uri()}/'}}\n"
        )
        archive = origin / "files.tar"
        _pack(archive, files)
        ref = hashlib.sha256(archive.read_bytes()).hexdigest()
        (root / "elements" / ELEMENT).write_text(
            "kind: import\nsources:\n"
            f"- {{kind: tar, url: 'origin:files.tar', ref: {ref}, base-dir: ''}}\n"
        )


def _pack(archive: Path, files: int) -> None:
    bits = random.Random(2)
    with tempfile.TemporaryDirectory() as made, tarfile.open(archive, "w") as tar:
        for number in range(files):
            path = Path(made) / f"folder-{number % _FOLDERS:02}" / f"file-{number:05}.txt"
            path.parent.mkdir(exist_ok=True)
            size_bytes = _LARGE_BYTES if number == 0 else _SIZES[number % len(_SIZES)]
            path.write_bytes(bits.randbytes(size_bytes))
        tar.add(made, arcname=".")


class User:
    """Somebody with a cache of their own, and one server for artifacts."""

    def __init__(self, home: Path, project: Project) -> None:
        self._home = home
        self._project = project

    def forget(self) -> None:
        """Lose the cache."""
        shutil.rmtree(self._home, ignore_errors=True)

    def bst(self, address: str | None, *args: str) -> None:
        """Run one command; raises ServerFailedError with what it said when it fails."""
        self._home.mkdir(parents=True, exist_ok=True)
        config = self._home / "buildstream.conf"
        server = f"artifacts: {{servers: [{{url: 'http://{address}', push: true}}]}}\n"
        config.write_text(server if address else "{}\n")
        names = ("CACHE", "CONFIG", "DATA")
        home = {f"XDG_{name}_HOME": str(self._home / name.lower()) for name in names}
        command = [str(install.bst_command()), "--no-interactive", "--no-colors"]
        ended = subprocess.run(
            [*command, "--config", str(config), *args],
            cwd=self._project.root,
            env={**os.environ, "HOME": str(self._home), **home},
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if ended.returncode:
            said = (ended.stdout + ended.stderr)[-3000:].decode(errors="replace")
            raise ServerFailedError(f"bst {' '.join(args)} ended with {ended.returncode}:\n{said}")
