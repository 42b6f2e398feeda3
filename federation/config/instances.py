"""The keys about instances: which others each one reads from."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Self

from pydantic import Field, model_validator

from federation.config.section import Section
from federation.core.index import NAMESPACES

SOURCES_MAX = 8  # that one instance reads from, directly or not: each costs every miss a look-up


class InstanceConfig(Section):
    """Rules for the instances that a pattern matches."""

    match: Annotated[str, Field(max_length=1000)] = Field(
        description='pattern (*, ?, [...]) of instance names; "" is the empty name'
    )
    reads_from: list[Annotated[str, Field(max_length=255)]] = Field(
        default=[],
        max_length=SOURCES_MAX,
        description="names of instances whose action results, assets and keyed entries its readers "
        "get, too: in this order, after its own; what they write stays in their own",
    )

    @model_validator(mode="after")
    def _names_no_namespace(self) -> Self:
        for name in [self.match, *self.reads_from] if self.reads_from else []:
            if not NAMESPACES.isdisjoint(name.split("/")):
                raise ValueError(
                    f"reads-from and {name!r}: the namespaces of HTTP listeners go with the "
                    "instance before them; with the paths pr/kv/app and main/kv/app say "
                    "match: pr, reads-from: [main]"
                )
        return self


def sources_of(rules: Sequence[InstanceConfig], instance: str) -> tuple[str, ...]:
    """Return the instances that this one reads from, in order: each, then what that reads from."""
    found: dict[str, None] = {}
    _add_sources(rules, rule_for(rules, instance), (instance,), found)
    return tuple(found)


def rule_for(rules: Sequence[InstanceConfig], instance: str) -> InstanceConfig | None:
    """Return the first rule that matches an instance; None: no rule does."""
    return next((rule for rule in rules if fnmatchcase(instance, rule.match)), None)


def check_sources(rules: Sequence[InstanceConfig]) -> None:
    """Raise ValueError if an instance reads from itself through others, or from too many."""
    for rule in rules:
        _add_sources(rules, rule, (rule.match,), {})


def _add_sources(
    rules: Sequence[InstanceConfig],
    rule: InstanceConfig | None,
    path: tuple[str, ...],
    found: dict[str, None],
) -> None:
    """path: from which instance to which the reading has gone; the last one has the rule."""
    for name in () if rule is None else rule.reads_from:
        if name == path[-1]:
            continue  # a pattern such as * may well match what the others read from
        if name in path:
            raise ValueError(
                f"{' reads from '.join(map(repr, (*path, name)))}: a circle; put a rule for "
                f"{name!r} without reads-from before the others"
            )
        if name in found:
            continue
        found[name] = None
        if len(found) > SOURCES_MAX:
            raise ValueError(
                f"{path[0]!r} reads from more than {SOURCES_MAX} instances, "
                "those included that these read from"
            )
        # By the first rule that matches, as look-ups do: a rule behind it does not count.
        _add_sources(rules, rule_for(rules, name), (*path, name), found)
