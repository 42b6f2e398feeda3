"""Where a walk through everything that is held continues: see scan.py."""

from __future__ import annotations

from typing import NamedTuple

END = 2**62  # above every time


class WalkPosition(NamedTuple):
    """After the row with this time of last use, and this name (or number) among those of that time.

    Times are in the unit of the walk.
    """

    up: bool
    begun: int
    at: int
    name: bytes | int

    def __str__(self) -> str:
        name = self.name.hex() if isinstance(self.name, bytes) else str(self.name)
        return f"{'up' if self.up else 'down'}:{self.begun}:{self.at}:{name}"

    @classmethod
    def parse(cls, text: str | None, first: bytes | int, now: int) -> WalkPosition:
        """Return the position that a text names; first: the name that comes before all others.

        The beginning of a new walk for no text, and for what another version wrote.
        """
        beginning = cls(up=False, begun=now, at=END, name=first)
        if not text:
            return beginning
        try:
            way, begun, at, name = text.split(":")
            named: bytes | int = bytes.fromhex(name) if isinstance(first, bytes) else int(name)
            found = cls(way == "up", int(begun), int(at), named)
        except ValueError:
            return beginning
        # Beyond these SQLite could not compare; a position from elsewhere begins anew.
        known = way in {"up", "down"} and max(map(abs, (found.begun, found.at))) <= END
        return found if known else beginning

    def turned(self, first: bytes | int, margin: int) -> WalkPosition:
        """Return where the way up begins: some time before the walk began."""
        return self._replace(up=True, at=self.begun - margin, name=first)
