"""Blocking operations on a data directory for the command line, beside a node or without one."""

from federation.storage.offline.collect import CollectReport, collect
from federation.storage.offline.explain import Explainer, FoundEntry, explaining
from federation.storage.offline.rebuild import RebuildReport, rebuild
from federation.storage.offline.summary import processes, summary
from federation.storage.offline.switching import offline_since_s, turn_offline
from federation.storage.offline.verify import VerifyReport, verify

__all__ = [
    "CollectReport",
    "Explainer",
    "FoundEntry",
    "RebuildReport",
    "VerifyReport",
    "collect",
    "explaining",
    "offline_since_s",
    "processes",
    "rebuild",
    "summary",
    "turn_offline",
    "verify",
]
