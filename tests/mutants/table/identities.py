"""Mistakes about who may do what, and about what instances show of each other."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_LAYERS = ("tests/upstream/test_read_through.py",)
_KEYS = ("tests/access/test_fetched_keys.py",)
_HELPER = ("tests/remote/test_credential_helper.py",)

IDENTITIES = [
    Mutant(
        "purged-in-main",
        "federation/upstream/read_through.py",
        "if entry.source is Source.UPSTREAM and await self._purged_below(entry.key):",
        "if entry.source is Source.PEER and await self._purged_below(entry.key):",
        _LAYERS,
        "An upstream brings back for pull requests what was purged in main.",
    ),
    Mutant(
        "own-entry-hidden",
        "federation/upstream/read_through.py",
        "            if not self._index.lacks_at_once(before):\n                return None\n",
        "",
        _LAYERS,
        "Main's result is served from memory although the instance has its own.",
    ),
    Mutant(
        "strangers-make-it-fetch",
        "federation/access/key_schedule.py",
        "return self.tried_at_s is None or now_s - self.tried_at_s >= AGAIN_S",
        "return self.tried_at_s is None or now_s - self.tried_at_s >= 0",
        _KEYS,
        "Whoever makes up key ids makes the node ask the issuer at every call.",
    ),
    Mutant(
        "keys-from-a-proxy",
        "federation/access/jwks_url.py",
        "        return None  # of this machine",
        "        return proxy_for(parts.netloc, tls=False)  # of this machine",
        ("tests/access/test_jwks_url.py",),
        "Whoever sits between the node and its HTTP proxy decides who is let in.",
    ),
    Mutant(
        "keys-for-ever",
        "federation/access/fetched_keys.py",
        "if len(self.value) and self._schedule.left_s(self._clock.monotonic_s()) <= 0:",
        "if not len(self.value) and self._schedule.left_s(self._clock.monotonic_s()) <= 0:",
        _KEYS,
        "A key that the issuer has withdrawn lets callers in for as long as its URL is down.",
    ),
    Mutant(
        "helper-at-every-call",
        "federation/remote/credential_helper.py",
        "return self._run_at_s is None or now_s - self._run_at_s >= _AGAIN_S",
        "return True",
        _HELPER,
        "A helper that fails is run at every call.",
    ),
    Mutant(
        "anybody-purges",
        "federation/access/access.py",
        "is_local = parse_address(listener.address).is_loopback",
        "is_local = True",
        ("tests/access/test_rights.py",),
        "Whoever reaches a listener without authentication deletes blobs from all peers.",
    ),
]
