"""The part of a running node that is about its mesh; absent in a node that is in none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from federation.access.watched_file import stamp_of
from federation.config.model import Config
from federation.core.clock import Clock
from federation.core.tasks import Background, FailingWork
from federation.mesh.folder import MeshFolder
from federation.mesh.introducing import Introducer
from federation.services.mesh import MeshService

_LOOK_EVERY_S = 0.5


class MeshParts:
    """The service that joiners call, and what introduces members to each other."""

    def __init__(
        self,
        config: Config,
        peer_names: Callable[[], Collection[str]],
        clock: Clock,
        failing: FailingWork,
        *,
        introduces: bool,
    ) -> None:
        """Take a configuration with a mesh.

        peer_names: of all peers now. introduces: False where another process of this node does.
        """
        folder = MeshFolder(config.data_dir)
        url = config.mesh.url or ""
        self.service = MeshService(
            folder, lambda: folder.own(config.node_name, url), peer_names, clock
        )
        self._introducer = Introducer(folder, clock)
        self._introduces = introduces
        self._clock = clock
        self._failing = failing
        self._tasks = Background()

    def __repr__(self) -> str:
        return f"<MeshParts {self._introducer!r}>"

    def start(self) -> None:
        """Begin to introduce members."""
        if self._introduces:
            self._tasks.keep(self._introducer.run, "introductions", self._clock, self._failing)

    def look_again(self) -> None:
        """Report that peers have changed."""
        self._introducer.look_again()

    async def close(self) -> None:
        """Stop introducing."""
        await self._tasks.close()


async def watch_members(config: Config, changed: Callable[[], None], clock: Clock) -> None:
    """Call changed() after each change of the members' files, until cancelled."""
    folder = MeshFolder(config.data_dir).files.members
    taken = seen = await asyncio.to_thread(stamp_of, folder)
    while True:
        await clock.sleep(_LOOK_EVERY_S)
        stamp = await asyncio.to_thread(stamp_of, folder)
        if stamp == seen != taken:  # two looks alike: nobody is writing
            taken = stamp
            changed()
        seen = stamp
