"""The environment that tests, and the programs they start, run in."""

from __future__ import annotations

from collections.abc import MutableMapping


def clear_proxies(environment: MutableMapping[str, str]) -> None:
    """Remove the variables that name HTTP proxies, and what they are not used for."""
    for name in list(environment):
        if name.lower().endswith("_proxy"):
            del environment[name]
