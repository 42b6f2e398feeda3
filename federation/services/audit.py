"""One log line for each push that was accepted: who, what, from where.

Written whatever the log's level is: who keeps these lines wants all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import structlog

from federation.access.rights import Rights

_log = structlog.wrap_logger(
    None, wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
)


def push_accepted(
    rights: Rights, peer: str, method: str, instance: str, what: Mapping[str, Any]
) -> None:
    """Write the line. Texts that the caller chose are escaped and clipped by the log itself."""
    _log.info(
        "push_accepted", identity=rights.identity, peer=peer, method=method, instance=instance,
        **what,
    )  # fmt: skip
