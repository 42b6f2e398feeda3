"""Blocking operations on a data directory for the command line, beside a node or without one."""

from federation.storage.offline.collect import CollectReport, collect
from federation.storage.offline.rebuild import RebuildReport, rebuild
from federation.storage.offline.summary import summary
from federation.storage.offline.verify import VerifyReport, verify

__all__ = [
    "CollectReport",
    "RebuildReport",
    "VerifyReport",
    "collect",
    "rebuild",
    "summary",
    "verify",
]
