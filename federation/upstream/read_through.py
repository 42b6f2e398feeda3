"""Instances that read from others: a name that one lacks is looked up in the next.

Pull requests can so read what the main branch has, and write only their own names. The caller needs
the right to pull in the instance that it asks; the configuration, not the caller, decides what that
instance shows. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from federation.config.instances import InstanceConfig, sources_of
from federation.core.index import Entry, EntryKey, Index
from federation.core.provenance import Source
from federation.core.purges import PurgedEntries
from federation.upstream.entry_finder import EntryQuery, Finder
from federation.wire.keyed_entry import split_instance

_REMEMBERED_MAX = 1000  # instance names are the callers' choice


class InstanceSources:
    """The instances that each instance reads from, by the rules of the configuration.

    A rule for an instance is also one for the namespaces of keyed entries below it.
    """

    def __init__(self, rules: Sequence[InstanceConfig]) -> None:
        self.apply_config(rules)

    def __repr__(self) -> str:
        return f"<InstanceSources {len(self._rules)} rules>"

    def apply_config(self, rules: Sequence[InstanceConfig]) -> None:
        """Take other rules from now on."""
        self._rules = list(rules)
        self._known: dict[str, tuple[str, ...]] = {}
        self.are_none = not any(rule.reads_from for rule in rules)

    def of(self, instance: str) -> tuple[str, ...]:
        """Return the instances to look into after this one, in order."""
        known = self._known.get(instance)
        if known is None:
            # A rule for pr holds for pr/kv/app, too, which then reads from main/kv/app.
            above, namespace = split_instance(instance)
            found = sources_of(self._rules, above)
            known = tuple("/".join(filter(None, (each, namespace))) for each in found)
            # Made anew in microseconds, so no order of use is kept.
            if len(self._known) >= _REMEMBERED_MAX:
                self._known.clear()
            self._known[instance] = known
        return known

    def keys_below(self, keys: Sequence[EntryKey]) -> Iterator[list[EntryKey]]:
        """Yield what these keys of one instance are in each that it reads from, in order."""
        if keys:
            for instance in self.of(keys[0].instance):
                yield [key._replace(instance=instance) for key in keys]


class LayeredFinder:
    """Finds entries in the instance asked, and else in those that it reads from. See Finder.

    An entry that was pushed to one of these wins over what an upstream has. Upstreams are asked
    once, for the instance asked, which then keeps the answer. An entry that is found elsewhere is
    returned under the key that was asked for.
    """

    def __init__(
        self, finder: Finder, index: Index, sources: InstanceSources, purged: PurgedEntries
    ) -> None:
        """finder: looks into single instances. purged: tells which names were purged here."""
        self._finder = finder
        self._index = index
        self._sources = sources
        self._purged = purged

    def __repr__(self) -> str:
        return f"<LayeredFinder {self._sources!r}>"

    def recall(self, key: EntryKey) -> Entry | None:
        """See Finder."""
        found = self._finder.recall(key)
        if found is not None or self._sources.are_none:
            return found
        before = [key]
        for keys in self._sources.keys_below(before):
            # A layer that is not known to be empty may have an entry, which would win.
            if not self._index.lacks_at_once(before):
                return None
            if (found := self._finder.recall(keys[0])) is not None:
                return found._replace(key=key)
            before = keys
        return None

    def misses_at_once(self, keys: Sequence[EntryKey]) -> bool:
        """See Finder."""
        if not self._finder.misses_at_once(keys):
            return False
        return self._sources.are_none or all(
            self._index.lacks_at_once(below) for below in self._sources.keys_below(keys)
        )

    async def keys_like(self, prefixes: Sequence[EntryKey]) -> list[EntryKey]:
        """See Finder."""
        found = await self._finder.keys_like(prefixes)
        if not self._sources.are_none and prefixes:
            own = prefixes[0].instance
            for below in self._sources.keys_below(prefixes):
                there = await self._finder.keys_like(below)
                found += [key._replace(instance=own) for key in there]
        # Several layers may have the same name, which is one answer.
        return list(dict.fromkeys(found))

    async def find(self, query: EntryQuery) -> Entry | None:
        """See Finder."""
        if self._sources.are_none:
            return await self._finder.find(query)
        layers = list(self._sources.keys_below(query.keys))
        if not layers:
            return await self._finder.find(query)
        # All keys of a query have one instance: requests name a single one.
        own = query.keys[0].instance

        async def acceptable(entry: Entry) -> bool:
            if entry.source is Source.UPSTREAM and await self._purged_below(entry.key):
                return False
            return await query.acceptable(_in_instance(own, entry))

        # One query over all layers: what was pushed to any of them wins before upstreams are asked.
        keys = [*query.keys, *(key for layer in layers for key in layer)]
        found = await self._finder.find(EntryQuery(keys, acceptable, query.ask))
        return None if found is None else _in_instance(own, found)

    async def _purged_below(self, key: EntryKey) -> bool:
        """Whether a name was purged where its instance reads from: no upstream brings it back."""
        below = [each for keys in self._sources.keys_below([key]) for each in keys]
        return bool(below) and bool(await self._purged(below))


def _in_instance(instance: str, entry: Entry) -> Entry:
    if entry.key.instance == instance:
        return entry
    return entry._replace(key=entry.key._replace(instance=instance))
