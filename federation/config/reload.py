"""Compares the configuration that a process runs with and a new one.

Keys declared live change while the process runs; other changes wait for a restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from federation.config.keys import walk
from federation.config.model import Config
from federation.core.errors import ConfigError


class Changes(NamedTuple):
    """The differences of a new configuration."""

    config: Config  # what the process runs with after the reload
    now: list[str]  # dotted keys that take effect
    restart: list[str]  # dotted keys whose new values wait for a restart


@cache
def _declared() -> Mapping[str, bool]:
    return {each.dotted: each.live for each in walk() if each.live is not None}


def is_live(dotted: str) -> bool:
    """Whether a change of this key takes effect without a restart."""
    parts = dotted.split(".")
    # The key itself, or a list or section around it that was declared as a whole.
    above = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return any(_declared().get(each, False) for each in above)


def changes(running: Config, wanted: Config) -> Changes:
    """Compare two configurations. A list counts as one key.

    Raises ConfigError if the live changes are invalid without those that need a restart.
    """
    before, after = (config.model_dump(by_alias=True) for config in (running, wanted))
    now, restart = [], []
    for path in _differences(before, after):
        dotted = ".".join(path)
        if is_live(dotted):
            now.append(dotted)
            # Into what runs now: the rest of it stays as it is until the restart.
            _put(before, path, _get(after, path))
        else:
            restart.append(dotted)
    try:
        # Values that fit together in the file need not fit those that wait for a restart.
        return Changes(Config.model_validate(before), now, restart)
    except ValidationError as error:
        reasons = "; ".join(detail["msg"] for detail in error.errors())
        raise ConfigError(
            f"what changed needs a restart ({', '.join(restart)}), without which the rest cannot "
            f"be taken: {reasons}"
        ) from None


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    for key, old in before.items():
        new, path = after[key], (*above, key)
        is_section = ".".join(path) not in _declared()  # not a key whose value is a mapping
        if is_section and isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, path)
        elif old != new:
            yield path


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: Any, path: tuple[str, ...], value: Any) -> None:
    _get(tree, path[:-1])[path[-1]] = value
