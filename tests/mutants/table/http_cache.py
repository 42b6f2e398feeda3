"""Mistakes by which the HTTP cache stops the builds of its clients, or lets them do too much."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_HTTP_CACHE = "federation/http_cache"
_ENTRIES = ("tests/http_cache/test_entries.py",)
_RESULTS = ("tests/http_cache/test_results.py",)
_BLOBS = ("tests/http_cache/test_blobs.py",)

HTTP_CACHE = [
    Mutant(
        "write-once-overwrites",
        "federation/storage/catalogue/entries.py",
        "    if _identity(old and old.entry) != _identity(held):",
        "    if held is not None and old is None:",
        ("tests/storage/test_put_over.py",),
        "Of two writers of a write-once key, in two processes at once, the second one wins.",
    ),
    Mutant(
        "write-once-is-put",
        f"{_HTTP_CACHE}/entries.py",
        "            if not await self._index.put_over(entry, held, provenance=call.provenance):",
        "            if await self._index.put([entry], provenance=call.provenance):",
        _ENTRIES,
        "A write-once key takes a value that came while another one was received.",
    ),
    Mutant(
        "private-blob-in-shared-cache",
        f"{_HTTP_CACHE}/blobs.py",
        "        fields = _PUBLIC if call.rights.is_anonymous else _PRIVATE",
        "        fields = _PUBLIC",
        _BLOBS,
        "A proxy in front hands a blob that needs a token to everybody.",
    ),
    Mutant(
        "http-probe-is-refused",
        f"{_HTTP_CACHE}/http_call.py",
        '        is_probe = self.method == "GET" and self.target.is_probe',
        "        is_probe = False",
        _ENTRIES,
        "sccache does not start with a wrong token, and each compilation fails.",
    ),
    Mutant(
        "http-json-sizes-are-not-read",
        f"{_HTTP_CACHE}/json_results.py",
        r""":\s*"?([0-9]{1,18})""",
        r""":\s*([0-9]{1,18})""",
        _RESULTS,
        "A mirror has none of the outputs that moon asks for, and each task runs again.",
    ),
    Mutant(
        "http-folder-above-needs-a-right",
        f"{_HTTP_CACHE}/folders.py",
        "    return target.kind is Kind.FOLDER and not target.namespace",
        "    return False",
        _ENTRIES,
        "sccache with a key prefix does not write where it may.",
    ),
    Mutant(
        "http-folders-need-no-right",
        f"{_HTTP_CACHE}/folders.py",
        "    return target.kind is Kind.FOLDER and not target.namespace",
        "    return target.kind is Kind.FOLDER",
        _ENTRIES,
        "sccache believes that it may write where it may not.",
    ),
    Mutant(
        "http-nx-is-told-503",
        f"{_HTTP_CACHE}/statuses.py",
        "    ClientKind.NX: 403,  # it tries six times",
        "    ClientKind.NX: 503,  # it tries six times",
        _BLOBS,
        "Nx fails the build when there is no room for its output.",
    ),
    Mutant(
        "http-miss-is-an-error",
        f"{_HTTP_CACHE}/statuses.py",
        "    return 404 if is_probe else _CALLERS_OWN.get(code, 404)",
        "    return 404 if is_probe else _CALLERS_OWN.get(code, 503)",
        _BLOBS,
        "Gradle turns the cache off at the first miss, and Nx fails the build.",
    ),
]
