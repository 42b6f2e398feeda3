"""What this node alone knows of an object: from its storage, without asking another node."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from federation.config.model import LimitsConfig
from federation.core.clock import utc_text
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import FederationError, InvalidRequest
from federation.core.index import EntryKind
from federation.server.status.closure_report import closure_of
from federation.storage.contract import Explainer, Operations
from federation.storage.reports import FoundEntry
from federation.wire.asset_request import content_of, pushed_of
from federation.wire.keyed_entry import action_of, decode_entry, split_name

DIGEST: Final = re.compile(r"(?:(sha256|blake3)/)?([0-9a-fA-F]{64})(?:/([0-9]{1,18}))?")

Explained = tuple[dict[str, Any], bool]  # the facts, and whether everything is stored


def explain_here(operations: Operations, text: str, limits: LimitsConfig) -> Mapping[str, Any]:
    """Return what is known here of a digest, URI or NAMESPACE/KEY; blocks."""
    try:
        with operations.explaining() as explainer:
            return LocalReport(explainer, limits).named(text, None, {})[0]
    except (FederationError, OSError) as error:
        return {"error": str(error)}


class LocalReport:
    """Combines what the catalogue says of an object and of what it names."""

    def __init__(self, explainer: Explainer, limits: LimitsConfig) -> None:
        self.explainer = explainer
        self._limits = limits

    def named(self, name: str, instance: str | None, qualifiers: dict[str, str]) -> Explained:
        """Explain a digest, a keyed entry or a URI, whichever it looks like."""
        if (match := DIGEST.fullmatch(name)) is not None:
            return self.blob(match)
        # Before URIs: none begins like a namespace.
        if (keyed := split_name(name)) is not None:
            return self.keyed(*keyed, instance)
        return self.asset(name, instance, qualifiers)

    # What other nodes say; nothing here, as only a subclass asks them

    def blob_elsewhere(self, digest: Digest) -> dict[str, Any]:  # noqa: ARG002
        """Return what others say of a blob."""
        return {}

    def action_elsewhere(
        self,
        action: Digest,  # noqa: ARG002
        found: Sequence[FoundEntry],  # noqa: ARG002
        missing: Sequence[Digest],  # noqa: ARG002
        instance: str | None,  # noqa: ARG002
        below: str | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return what others say of an action result; below: of a keyed entry's namespace."""
        return {}

    def asset_elsewhere(
        self,
        uri: str,  # noqa: ARG002
        qualifiers: dict[str, str],  # noqa: ARG002
        found: Sequence[FoundEntry],  # noqa: ARG002
        missing: Sequence[Digest],  # noqa: ARG002
        instance: str | None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return what others say of an asset."""
        return {}

    def blob(self, match: re.Match[str]) -> Explained:
        """Explain a blob."""
        found = digest_in(match, self.explainer)
        if found is None:
            note = "no blob with this hash is here; give HASH/SIZE to have upstreams asked"
            return {"hash": match[2].lower(), "here": False, "note": note}, False
        facts = self.explainer.blob(found)
        purged = self._purged(digest=found)
        told = {"digest": str(found), **facts, **purged, **self.blob_elsewhere(found)}
        return told, bool(facts["here"])

    def action(self, action: Digest, instance: str | None) -> Explained:
        """Explain the results of an action."""
        found = self.explainer.action_results(action, instance)
        shown, missing = self._entries(found)
        others = self.action_elsewhere(action, found, missing, instance)
        told = {"action": str(action), "entries": shown, **self._purged(str(action)), **others}
        return told, _any_complete(shown)

    def keyed(self, namespace: str, key: str, instance: str | None) -> Explained:
        """Explain a keyed entry of the HTTP cache."""
        action = action_of(namespace, key)
        found = self.explainer.action_results(action, instance)
        if not found and namespace == "ac" and (match := DIGEST.fullmatch(key)):
            return self.action(action_in(match, self.explainer), instance)
        shown, missing = self._entries(found)
        for each, told in zip(found, shown, strict=True):
            with suppress(InvalidRequest):  # the closure says what is wrong with it
                told["value"] = str(decode_entry(each.entry.value).value)
        below = "" if namespace == "ac" else namespace
        others = self.action_elsewhere(action, found, missing, instance, below)
        told = {"namespace": namespace, "key": key, "action": str(action)}
        purged = self._purged(str(action))
        return {**told, "entries": shown, **purged, **others}, _any_complete(shown)

    def asset(self, uri: str, instance: str | None, qualifiers: dict[str, str]) -> Explained:
        """Explain the assets of a URI."""
        found = self.explainer.assets(uri, instance)
        shown, missing = self._entries(found)
        others = self.asset_elsewhere(uri, qualifiers, found, missing, instance)
        told = {"uri": uri, "entries": shown, **self._purged(uri), **others}
        return told, _any_complete(shown)

    def _purged(self, label: str = "", digest: Digest | None = None) -> dict[str, Any]:
        """Return when a blob, or the entries with a label, were purged; empty: they were not."""
        return {
            f"purged{'' if isinstance(each.thing, Digest) else f' in {each.thing.instance!r}'}": (
                f"at {utc_text(each.at_s)}, by {each.by or 'unknown'}"
                + (", and pushed again since" if each.is_allowed else "")
            )
            for each in self.explainer.purges(digest, label)
        }

    def _entries(self, found: Sequence[FoundEntry]) -> tuple[list[dict[str, Any]], list[Digest]]:
        """Return what is shown of the entries, and what is missing of the first incomplete one."""
        shown = []
        missing: list[Digest] = []
        for each in found:
            report = closure_of(each.entry, self.explainer, self._limits)
            missing = missing or report.missing
            closure = {
                "complete": report.complete,
                "blobs": report.blobs,
                "structures": report.structures,
                "missing": [str(digest) for digest in report.missing],
                **({"problem": report.problem} if report.problem else {}),
            }
            shown.append({**each.facts, **_content(each), "closure": closure})
        return shown, missing


def digest_in(match: re.Match[str], explainer: Explainer) -> Digest | None:
    """Return the digest that a match of DIGEST names; None: its size is not given and not known."""
    raw_hash = bytes.fromhex(match[2])
    functions = [_function(match[1])] if match[1] else list(DigestFunction)
    known = [explainer.with_hash(each, raw_hash) for each in functions]
    found = next((digest for digest in known if digest is not None), None)
    if match[3] is None:
        return found
    function = found.function if found is not None else functions[0]
    return Digest(raw_hash, int(match[3]), function)


def action_in(match: re.Match[str], explainer: Explainer) -> Digest:
    """Return the action that a match of DIGEST names; of size 0 where digest_in returns None."""
    named = digest_in(match, explainer)
    return Digest(bytes.fromhex(match[2]), 0, _function(match[1])) if named is None else named


def _content(found: FoundEntry) -> dict[str, Any]:
    if found.entry.key.kind is EntryKind.ACTION_RESULT:
        return {"bytes": len(found.entry.value)}
    pushed = pushed_of(found.entry)
    qualifiers = [f"{each.name}={each.value}" for each in pushed.qualifiers]
    return {"content": str(content_of(pushed)), "qualifiers": qualifiers}


def _any_complete(entries: Sequence[dict[str, Any]]) -> bool:
    return any(entry["closure"]["complete"] for entry in entries)


def _function(name: str | None) -> DigestFunction:
    return DigestFunction[(name or "sha256").upper()]
