"""federation explain."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from federation.cli.ask_upstreams import (
    NOT_ASKED,
    Question,
    about_action,
    about_asset,
    about_blob,
    ask,
    ask_peers,
)
from federation.cli.closure_report import closure_of
from federation.cli.command import Command, json_option
from federation.cli.options import Place, place, place_options
from federation.cli.output import emit
from federation.cli.progress import warnings_only
from federation.cli.values import DigestType, qualifiers_of
from federation.config.model import Config, LimitsConfig
from federation.core.clock import utc_text
from federation.core.digest import Digest, DigestFunction
from federation.core.errors import InvalidRequest
from federation.core.index import EntryKind
from federation.server.exit_codes import FOUND_PROBLEMS
from federation.storage.contract import Explainer
from federation.storage.reports import FoundEntry
from federation.wire.asset_request import content_of, pushed_of
from federation.wire.keyed_entry import action_of, decode_entry, split_name

DIGEST = re.compile(r"(?:(sha256|blake3)/)?([0-9a-fA-F]{64})(?:/([0-9]{1,18}))?")
_EXAMPLES = """\b
Examples:
  federation explain 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08/4
  federation explain --config /etc/federation.yaml blake3/HASH/SIZE
  federation explain urn:fdc:buildstream.build:2020:artifact:project/element/KEY
  federation explain --action HASH/SIZE
  federation explain kv/main/KEY
"""


@click.command(cls=Command, epilog=_EXAMPLES)
@click.argument("name", metavar="DIGEST|URI|NAMESPACE/KEY", required=False)
@click.option("--action", type=DigestType(), help="Explain the result of this action instead.")
@click.option(
    "--instance", help='Only entries of this instance name, which may be "".  [default: all]'
)
@click.option(
    "--qualifier",
    "qualifiers",
    multiple=True,
    metavar="NAME=VALUE",
    help="With a URI: ask upstreams with this qualifier. Can be repeated.",
)
@place_options
@json_option
def explain(
    name: str | None,
    action: Digest | None,
    instance: str | None,
    qualifiers: tuple[str, ...],
    config_path: Path | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Show everything known about a blob, an asset, an action result or a keyed entry of the HTTP
    cache (kv/NAME/KEY, gradle/KEY, turborepo[/TEAM]/KEY, nx/KEY, ac/HASH): whether it is stored,
    since when and from where, whether it may be evicted, which peers have acknowledged it, and
    whether each upstream and peer has it now.

    Reads the data directory, grants no lease and changes nothing. This command itself asks the
    upstreams and peers of --config; it does not ask upstreams while the node is offline. Exits with
    1 if the object is not stored, or if something that it names is missing.
    """
    if (name is None) == (action is None):
        raise click.UsageError("give a DIGEST, a URI, NAMESPACE/KEY, or --action")
    asked_with = qualifiers_of(qualifiers)
    where = place(config_path, data_dir)
    with where.operations.explaining() as explainer:
        report = _Report(where, explainer)
        if action is not None:
            facts, fine = report.action(action, instance)
        elif (match := DIGEST.fullmatch(name or "")) is not None:
            facts, fine = report.blob(match)
        elif (keyed := split_name(name or "")) is not None:
            facts, fine = report.keyed(*keyed, instance)
        else:
            facts, fine = report.asset(name or "", instance, asked_with)
    emit(facts, as_json=as_json)
    if not fine:
        sys.exit(FOUND_PROBLEMS)


Explained = tuple[dict[str, Any], bool]  # the facts, and whether everything is stored


class _Report:
    """Combines what the catalogue, the upstreams and the peers say."""

    def __init__(self, where: Place, explainer: Explainer) -> None:
        self._where = where
        self._explainer = explainer
        self._limits = LimitsConfig() if where.file is None else where.file.limits

    def blob(self, match: re.Match[str]) -> Explained:
        found = self._digest(match)
        if found is None:
            note = "no blob with this hash is here; give HASH/SIZE to have upstreams asked"
            return {"hash": match[2].lower(), "here": False, "note": note}, False
        facts = self._explainer.blob(found)
        purged = self._purged(digest=found)
        told = {"digest": str(found), **facts, **purged, **self._others(about_blob(found))}
        return told, bool(facts["here"])

    def action(self, action: Digest, instance: str | None) -> Explained:
        found = self._explainer.action_results(action, instance)
        shown, missing = self._entries(found)
        question = about_action(action, [each.entry for each in found], missing)
        others = self._others(question, _instance(found, instance))
        told = {"action": str(action), "entries": shown, **self._purged(str(action)), **others}
        return told, _any_complete(shown)

    def keyed(self, namespace: str, key: str, instance: str | None) -> Explained:
        action = action_of(namespace, key)
        found = self._explainer.action_results(action, instance)
        if not found and namespace == "ac" and (match := DIGEST.fullmatch(key)):
            named = self._digest(match)
            if named is None:
                named = Digest(bytes.fromhex(match[2]), 0, _function(match[1]))
            return self.action(named, instance)
        shown, missing = self._entries(found)
        for each, told in zip(found, shown, strict=True):
            with suppress(InvalidRequest):  # the closure says what is wrong with it
                told["value"] = str(decode_entry(each.entry.value).value)
        entries = [each.entry for each in found]
        below = "" if namespace == "ac" else namespace
        others = self._others(
            about_action(action, entries, missing, below),
            _instance(found, below if instance is None else instance),
            for_peers=about_action(action, entries, missing),
        )
        told = {"namespace": namespace, "key": key, "action": str(action)}
        purged = self._purged(str(action))
        return {**told, "entries": shown, **purged, **others}, _any_complete(shown)

    def asset(self, uri: str, instance: str | None, qualifiers: dict[str, str]) -> Explained:
        found = self._explainer.assets(uri, instance)
        shown, missing = self._entries(found)
        question = about_asset(uri, qualifiers, [each.entry for each in found], missing)
        others = self._others(question, _instance(found, instance))
        told = {"uri": uri, "entries": shown, **self._purged(uri), **others}
        return told, _any_complete(shown)

    def _purged(self, label: str = "", digest: Digest | None = None) -> dict[str, Any]:
        """Return when a blob, or the entries with a label, were purged; empty: they were not."""
        return {
            f"purged{'' if isinstance(each.thing, Digest) else f' in {each.thing.instance!r}'}": (
                f"at {utc_text(each.at_s)}, by {each.by or 'unknown'}"
                + (", and pushed again since" if each.is_allowed else "")
            )
            for each in self._explainer.purges(digest, label)
        }

    def _digest(self, match: re.Match[str]) -> Digest | None:
        return digest_in(match, self._explainer)

    def _entries(self, found: Sequence[FoundEntry]) -> tuple[list[dict[str, Any]], list[Digest]]:
        """Return what is shown of the entries, and what is missing of the first incomplete one."""
        shown = []
        missing: list[Digest] = []
        for each in found:
            report = closure_of(each.entry, self._explainer, self._limits)
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

    def _others(
        self, question: Question, instance: str = "", *, for_peers: Question | None = None
    ) -> dict[str, Any]:
        """Return nothing where no configuration says which upstreams and peers there are.

        for_peers: what to ask peers, if not the same.
        """
        file = self._where.file
        if file is None:
            return {}
        told = {"upstreams": self._upstreams(file, question)}
        if file.peers:
            with warnings_only():
                node_id = self._explainer.node_id
                told["peers-say"] = ask_peers(file.peers, instance, node_id, for_peers or question)
        return told

    def _upstreams(self, file: Config, question: Question) -> list[dict[str, Any]]:
        if file.offline or self._explainer.is_switched_offline:
            reason = "this node is offline"
            return [
                {"name": each.name, "answer": NOT_ASKED, "reason": reason}
                for each in file.upstreams
            ]
        with warnings_only():
            return ask(file.upstreams, self._explainer.node_id, question)


def digest_in(
    match: re.Match[str], explainer: Explainer, *, any_size: bool = False
) -> Digest | None:
    """Return the digest that a match of DIGEST names; None: its size is not given and not known.

    any_size: return one of size 0 then.
    """
    raw_hash = bytes.fromhex(match[2])
    functions = [_function(match[1])] if match[1] else list(DigestFunction)
    known = [explainer.with_hash(each, raw_hash) for each in functions]
    found = next((digest for digest in known if digest is not None), None)
    if match[3] is None:
        return Digest(raw_hash, 0, functions[0]) if found is None and any_size else found
    function = found.function if found is not None else functions[0]
    return Digest(raw_hash, int(match[3]), function)


def _instance(found: Sequence[FoundEntry], asked: str | None) -> str:
    """Return where peers were sent the entry: as far as they have no instance name of their own."""
    return found[0].entry.key.instance if found else asked or ""


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
