"""What commands print on standard output: lines for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import click

from federation.server.status.formats import rounded


def emit_json(facts: Mapping[str, Any]) -> None:
    """Print facts as JSON."""
    click.echo(json.dumps(facts, indent=2, default=str))


class Report(Protocol):
    """The result of a long operation."""

    def as_dict(self) -> Mapping[str, Any]:
        """Return plain values by name."""
        ...


def emit_report(report: Report, *, as_json: bool) -> None:
    """Print a report for people or scripts."""
    emit(report.as_dict(), as_json=as_json)


def emit(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Print facts for people or scripts."""
    if as_json:
        emit_json(facts)
    else:
        click.echo("\n".join(lines(facts)))


def lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return facts for people: one a line, nested ones indented."""
    found = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found += [f"{indent}{key}:", *lines(value, indent + "  ")]
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            found.append(f"{indent}{key}:")
            for item in value:
                first, *rest = lines(item, indent + "    ")
                found += [f"{indent}  - {first.strip()}", *rest]
        else:
            found.append(f"{indent}{key}: {_shown(key, value)}")
    return found


def _shown(key: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if key.endswith("bytes") and isinstance(value, int) and value >= 1024:
        return f"{value} ({rounded(value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
