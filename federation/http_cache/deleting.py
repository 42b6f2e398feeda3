"""DELETE: a purge, for callers with the right to it."""

from __future__ import annotations

from federation.core.digest import Digest
from federation.core.errors import EntryNotFound
from federation.core.index import Index
from federation.core.purges import Purgeable, Purges
from federation.core.store import LocalStore
from federation.http_cache.entries import question_of
from federation.http_cache.http_call import http_of
from federation.http_cache.target import Kind, Target
from federation.services.call import Call
from federation.services.method import Send
from federation.services.request_stream import RequestStream
from federation.wire.action_result import key_prefix_of

_PURGED = {Kind.BLOB, Kind.RESULT, Kind.ENTRY}


class DeleteCalls:
    """DELETE of a blob, an action result or a keyed entry."""

    def __init__(self, store: LocalStore, index: Index, purges: Purges) -> None:
        self._store = store
        self._index = index
        self._purges = purges

    async def delete(self, _requests: RequestStream, _send: Send, call: Call) -> bytes:
        """Purge what the path names, if the caller is an admin there.

        Others that may push are answered as if it were deleted, and nothing is: clients delete what
        they wrote to find out whether they may write, and take an error for a broken cache.

        Raises EntryNotFound for a blob that is not here: its size is not known.
        """
        http = http_of(call)
        target = http.target
        call.check_push(target.instance)
        is_blob = target.kind is Kind.BLOB
        may_purge = call.rights.may_purge(None if is_blob else target.instance)
        # sccache deletes its probe to find out whether it may write; that must purge nothing.
        if may_purge and target.kind in _PURGED and not target.is_probe:
            things = await self._named(target)
            by = f"{call.rights.identity} at {call.peer}, DELETE"
            await self._purges.purge(things, by)
            call.accepted(target.instance, purged=target.key or str(things[0][0]))
        http.answers(204)
        return b""

    async def _named(self, target: Target) -> list[tuple[Purgeable, str]]:
        named = target.named
        if target.kind is Kind.BLOB:
            assert named is not None
            size_bytes = await self._store.size_of(named.function, named.hash)
            if size_bytes is None:
                raise EntryNotFound(f"no blob with the hash {named.hash_hex} is here")
            return [(Digest(named.hash, size_bytes, named.function), "")]
        keyed = question_of(target)
        things: list[tuple[Purgeable, str]] = [(keyed.key, str(keyed.action))]
        if target.kind is Kind.RESULT:
            assert named is not None
            # It may be kept under any size of its action, and the path has none.
            held = await self._index.get_like([key_prefix_of(target.instance, named)])
            things += [(entry.key, entry.label) for entry in held]
        return things
