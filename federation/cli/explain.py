"""federation explain."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
from federation.cli.command import Command, json_option
from federation.cli.options import Place, place, place_options
from federation.cli.output import emit
from federation.cli.values import DigestType, qualifiers_of
from federation.config.model import Config, LimitsConfig
from federation.core.digest import Digest
from federation.server.exit_codes import FOUND_PROBLEMS
from federation.server.status.explained import LocalReport
from federation.storage.contract import Explainer
from federation.storage.reports import FoundEntry
from federation.upstream.read_through import InstanceSources

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
    whether each upstream and peer has it now. With --instance, also which others that instance
    reads from.

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
        else:
            facts, fine = report.named(name or "", instance, asked_with)
    if instance is not None and where.file is not None:
        sources = InstanceSources(where.file.instances).of(instance)
        facts |= {"reads-from": list(sources)} if sources else {}
    emit(facts, as_json=as_json)
    if not fine:
        sys.exit(FOUND_PROBLEMS)


class _Report(LocalReport):
    """Adds what the upstreams and the peers say."""

    def __init__(self, where: Place, explainer: Explainer) -> None:
        # The node's own bounds, or a closure could be whole here and hidden there.
        limits = LimitsConfig() if where.file is None else where.file.limits
        super().__init__(explainer, limits)
        self._where = where

    def blob_elsewhere(self, digest: Digest) -> dict[str, Any]:
        return self._others(about_blob(digest))

    def action_elsewhere(
        self,
        action: Digest,
        found: Sequence[FoundEntry],
        missing: Sequence[Digest],
        instance: str | None,
        below: str | None = None,
    ) -> dict[str, Any]:
        entries = [each.entry for each in found]
        for_all = about_action(action, entries, missing)
        if below is None:
            return self._others(for_all, _instance(found, instance))
        return self._others(
            about_action(action, entries, missing, below),
            _instance(found, below if instance is None else instance),
            # Peers keep keyed entries under the same instance name; only upstreams have one below
            # theirs.
            for_peers=for_all,
        )

    def asset_elsewhere(
        self,
        uri: str,
        qualifiers: dict[str, str],
        found: Sequence[FoundEntry],
        missing: Sequence[Digest],
        instance: str | None,
    ) -> dict[str, Any]:
        question = about_asset(uri, qualifiers, [each.entry for each in found], missing)
        return self._others(question, _instance(found, instance))

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
            node_id = self.explainer.node_id
            told["peers-say"] = ask_peers(file.peers, instance, node_id, for_peers or question)
        return told

    def _upstreams(self, file: Config, question: Question) -> list[dict[str, Any]]:
        if file.offline or self.explainer.is_switched_offline:
            reason = "this node is offline"
            return [
                {"name": each.name, "answer": NOT_ASKED, "reason": reason}
                for each in file.upstreams
            ]
        return ask(file.upstreams, self.explainer.node_id, question)


def _instance(found: Sequence[FoundEntry], asked: str | None) -> str:
    """Return where peers were sent the entry: as far as they have no instance name of their own."""
    return found[0].entry.key.instance if found else asked or ""
