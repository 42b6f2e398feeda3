"""A real `bst artifact push` and `bst artifact pull`, from the command to its end."""

from __future__ import annotations

import shutil
import time
from functools import partial

from benchmarks.base import Row, RowSpec, Sample
from benchmarks.process import Server
from benchmarks.project import ELEMENT, Project, User


class BuildStream(Row):
    """Pushes to a server that has nothing, or pulls from it with a user that has nothing."""

    warms_up = False

    def __init__(self, server: Server, files: int, *, pull: bool) -> None:
        super().__init__(server)
        self._files = files
        self._pull = pull

    def prepare(self) -> None:
        """See Row."""
        project = Project(self.server.home / "project", self._files)
        self._builder = User(self.server.home / "builder", project)
        self._reader = User(self.server.home / "reader", project)
        self._builder.bst(None, "build", ELEMENT)
        self.server.start()
        if self._pull:
            self._builder.bst(self.server.address, "artifact", "push", ELEMENT)

    def round(self, seconds: float) -> Sample:
        """See Row. One command; the client's CPU is not this process's, so it is not told."""
        del seconds
        user, command = (self._reader, "pull") if self._pull else (self._builder, "push")
        if self._pull:
            self._reader.forget()
        else:
            self.server.stop()
            shutil.rmtree(self.server.data_dir)
            self.server.start()
        cpu_s, began_s = self.server.cpu_s(), time.perf_counter()
        user.bst(self.server.address, "artifact", command, ELEMENT)
        value = time.perf_counter() - began_s
        return Sample([value], self.server.cpu_s() - cpu_s, 0.0)


def rows(*, quick: bool) -> list[RowSpec]:
    """Return this module's rows; BuildGrid has no Remote Asset service."""
    files = 50 if quick else 2000
    return [
        RowSpec(
            f"bst-{command}",
            f"bst artifact {command}, {files:,} files",
            partial(BuildStream, files=files, pull=command == "pull"),
            items=files,
            item="file",
            stores=command == "push",
            servers=("federation", "casd"),
        )
        for command in ("push", "pull")
    ]
