"""The rules of the configuration about namespaces of keyed entries."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from federation.config.namespaces import NamespaceConfig


class Namespaces:
    """What holds in each namespace: the first rule that matches decides."""

    def __init__(self, rules: Sequence[NamespaceConfig]) -> None:
        self._rules = list(rules)

    def __repr__(self) -> str:
        return f"<Namespaces {len(self._rules)} rules>"

    def apply_config(self, rules: Sequence[NamespaceConfig]) -> None:
        """Take other rules from now on."""
        self._rules = list(rules)

    def is_write_once(self, namespace: str) -> bool:
        """Return whether the first value of a key stays."""
        for rule in self._rules:
            if fnmatch.fnmatchcase(namespace, rule.match):
                return rule.write_once
        return False
