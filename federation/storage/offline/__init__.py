"""Blocking operations on a data directory for the command line, beside a node or without one."""

from federation.storage.offline.collect import CollectReport, collect
from federation.storage.offline.explain import Explainer, FoundEntry, explaining
from federation.storage.offline.peer_requests import ask_reconcile, ask_retry, drop_peer
from federation.storage.offline.peers import Known, known_peers, read_parked
from federation.storage.offline.rebuild import RebuildReport, rebuild
from federation.storage.offline.summary import processes, summary
from federation.storage.offline.switching import offline_since_s, turn_offline
from federation.storage.offline.verify import VerifyReport, verify

__all__ = [
    "CollectReport",
    "Explainer",
    "FoundEntry",
    "Known",
    "RebuildReport",
    "VerifyReport",
    "ask_reconcile",
    "ask_retry",
    "collect",
    "drop_peer",
    "explaining",
    "known_peers",
    "offline_since_s",
    "processes",
    "read_parked",
    "rebuild",
    "summary",
    "turn_offline",
    "verify",
]
