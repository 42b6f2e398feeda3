"""Disks that tests may fill, fail and cut off: a tmpfs of fixed size, and ext4 on a loop device."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHUTDOWN = 0x8004587D  # ioctl EXT4_IOC_SHUTDOWN (linux/fs/ext4/ext4.h)
FLUSH_ALL, FLUSH_LOG, FLUSH_NOTHING = 0, 1, 2


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"


@contextmanager
def tmpfs(folder: Path, *, size: str = "64m", inodes: int = 0) -> Iterator[Path]:
    """Mount a tmpfs with this much room and this many inodes (0: any number)."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
    _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))


def fill(folder: Path, *, leave_bytes: int = 0) -> Path:
    """Take all room of the file system but leave_bytes; returns the file to remove again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        state = os.statvfs(folder)
        left = state.f_bavail * state.f_frsize - leave_bytes
        try:
            while left > 0:
                left -= file.write(bytes(min(left, 2**20)))
            while not leave_bytes:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:  # which is what we came for
                raise
    return filler


class Disk:
    """ext4 in a file, whose power can be cut.

    After cut() everything written and not made durable is gone (as far as the flag says), every
    call on the mount fails, and the mount must be renewed.
    """

    def __init__(self, folder: Path, size: str = "256M") -> None:
        self.image = folder / "disk.img"
        self.mount_point = folder / "mnt"
        self.mount_point.mkdir(parents=True, exist_ok=True)
        _run("truncate", "-s", size, str(self.image))
        _run("mkfs.ext4", "-q", "-F", str(self.image))

    def __enter__(self) -> Disk:
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        if os.path.ismount(self.mount_point):
            self.umount()

    def mount(self) -> None:
        """Mount it, replaying its journal."""
        _run("mount", "-o", "loop", str(self.image), str(self.mount_point))

    def umount(self) -> None:
        """Unmount it."""
        _run("umount", str(self.mount_point))

    def cut(self, flag: int = FLUSH_NOTHING) -> None:
        """Cut the power, as seen from the disk."""
        fd = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", flag))
        finally:
            os.close(fd)

    def renew(self) -> None:
        """Take the dead mount away and mount what the disk kept."""
        self.umount()
        self.mount()
