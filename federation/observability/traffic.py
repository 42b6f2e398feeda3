"""What callers asked for and were sent, by instance: plain numbers that every call adds to.

An instance name is the caller's choice, so a name has numbers of its own only once something was
stored or found under it (`named`); until then, and beyond the first NAMES_MAX names, it shares
those of OTHERS. That bounds memory, and the series that /metrics shows.

For the event loop only.
"""

from __future__ import annotations

from collections.abc import Iterator

from federation.observability.families import Family

NAMES_MAX = 100
OTHERS = "(other)"


class Lookups:
    """How often something was asked for and found, and how often not."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0

    def __repr__(self) -> str:
        return f"<Lookups {self.hits} hits, {self.misses} misses>"


class InstanceTraffic:
    """The numbers of one instance since the process began."""

    __slots__ = (
        "action_results",
        "assets",
        "blobs",
        "in_bytes",
        "keyed_entries",
        "name",
        "out_bytes",
        "presence",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_bytes = 0  # of blobs, as their callers sent them
        self.out_bytes = 0
        self.blobs = Lookups()  # reads
        self.presence = Lookups()  # of blobs that FindMissing was asked about
        self.action_results = Lookups()
        self.assets = Lookups()
        self.keyed_entries = Lookups()

    def __repr__(self) -> str:
        return f"<InstanceTraffic of {self.name!r}: {self.out_bytes} bytes out>"

    def lookups(self) -> Iterator[tuple[str, Lookups]]:
        """Yield the kind of each lookup as metrics name it, and its numbers."""
        yield "blob", self.blobs
        yield "presence", self.presence
        yield "action_result", self.action_results
        yield "asset", self.assets
        yield "keyed_entry", self.keyed_entries


class Traffic:
    """The numbers of all instances."""

    def __init__(self) -> None:
        self._others = InstanceTraffic(OTHERS)
        # The empty name is most clients', and needs no proof that it is used.
        self._named = {"": InstanceTraffic("")}

    def __repr__(self) -> str:
        return f"<Traffic of {len(self._named)} instances>"

    def of(self, instance: str) -> InstanceTraffic:
        """Return the numbers to add to for whatever a caller names."""
        # Never a new name: whoever asks for a thousand names must not make a thousand series.
        return self._named.get(instance, self._others)

    def named(self, instance: str) -> InstanceTraffic:
        """Return the numbers of an instance that something is stored in, or may be now."""
        found = self._named.get(instance)
        if found is None:
            # Without removing any: a series that ends and begins again looks like a restart.
            if len(self._named) >= NAMES_MAX:
                return self._others
            found = self._named[instance] = InstanceTraffic(instance)
        return found

    def __iter__(self) -> Iterator[InstanceTraffic]:
        yield from self._named.values()
        yield self._others


def traffic_families(traffic: Traffic) -> Iterator[Family]:
    """Yield these numbers as metrics."""
    moved = Family(
        "federation_blob_bytes",
        "counter",
        "Blob bytes moved, by instance and direction (in, out)",
    )
    asked = Family(
        "federation_lookups",
        "counter",
        "Objects asked for, by instance, kind (blob, action_result, asset, keyed_entry; "
        "presence: blobs in FindMissing) and result (hit, miss)",
    )
    for each in traffic:
        for direction, size_bytes in (("in", each.in_bytes), ("out", each.out_bytes)):
            labels = {"instance": each.name, "direction": direction}
            moved.add(size_bytes, suffix="_total", labels=labels)
        for kind, found in each.lookups():
            for result, count in (("hit", found.hits), ("miss", found.misses)):
                labels = {"instance": each.name, "kind": kind, "result": result}
                asked.add(count, suffix="_total", labels=labels)
    yield moved
    yield asked
