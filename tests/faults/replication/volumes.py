"""Volumes of nodes that a test may fill and take away: each a tmpfs, with the data directory in it.

They are made in a mount namespace of the test's own, so that they are gone with its last process,
however that ends. `in_own_mounts` starts a program in one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.faults.storage.disks import fill

_MARK = "FEDERATION_TEST_OWN_MOUNTS"


def in_own_mounts(command: Sequence[str]) -> list[str] | None:
    """Return what starts a command in a mount namespace; None if this process is in one.

    Needs root or user namespaces.
    """
    if os.environ.get(_MARK):
        return None
    unshare = shutil.which("unshare")
    assert unshare, "this test needs unshare (Debian's package util-linux)"
    as_root = [] if os.geteuid() == 0 else ["-r"]
    return [unshare, "-m", *as_root, "--propagation", "private", "env", f"{_MARK}=1", *command]


class Volume:
    """A tmpfs of fixed size; its folder `data` is mounted at `data_dir` while it is attached."""

    def __init__(self, data_dir: Path, size: str) -> None:
        """Mount it. data_dir must not be in use."""
        assert os.environ.get(_MARK), "only in a mount namespace of the test's own"
        self.data_dir = data_dir
        self._whole = data_dir.with_name(f"{data_dir.name}.volume")
        for folder in (self._whole, data_dir):
            folder.mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(self._whole))
        self._data = self._whole / "data"
        self._empty = self._whole / "empty"
        for folder in (self._data, self._empty):
            folder.mkdir(mode=0o700)
        self._filler: Path | None = None
        self.attach()

    def __repr__(self) -> str:
        return f"<Volume of {self.data_dir}>"

    def attach(self) -> None:
        """Show its content at data_dir."""
        mount("--bind", str(self._data), str(self.data_dir))

    def detach(self) -> None:
        """Take it away, though it is in use: paths lead to an empty folder, open files go on."""
        umount(self.data_dir)

    def hide(self, part: str, *, other_device: bool) -> None:
        """Let a folder below data_dir appear empty, on the same device or on another one."""
        target = str(self.data_dir / part)
        if other_device:
            mount("-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", target)
        else:
            shutil.rmtree(self._empty)  # what was written there meanwhile
            self._empty.mkdir(mode=0o700)
            mount("--bind", str(self._empty), target)

    def show(self, part: str) -> None:
        """Undo hide."""
        umount(self.data_dir / part)

    def fill(self, leave_bytes: int) -> None:
        """Take all of its room but leave_bytes."""
        self._filler = fill(self._whole, leave_bytes=leave_bytes)

    def empty(self) -> None:
        """Undo fill."""
        if self._filler is not None:
            self._filler.unlink()
            self._filler = None

    def remove(self) -> None:
        """Unmount all of it. It is lost."""
        while os.path.ismount(self.data_dir):
            umount(self.data_dir)
        umount(self._whole)


def mount(*args: str) -> None:
    """Run mount(8)."""
    _run("mount", *args)


def umount(target: Path) -> None:
    """Unmount lazily: whoever has files open there keeps them."""
    _run("umount", "-l", str(target))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
