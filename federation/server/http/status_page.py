"""The index page for people: peers and upstreams as tables, then all facts as JSON.

Plain HTML that refreshes itself; no script, no external resources.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

_REFRESH_S = 5
_STYLE = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin:0 0 1em}"
    "td,th{text-align:left;padding:.2em 1em .2em 0;border-bottom:1px solid #ccc}"
)
_PEERS = (
    ("peer", "name"),
    ("state", "state"),
    ("objects it lacks", "lag-objects"),
    ("bytes", "lag-bytes"),
    ("oldest, s", "lag-s"),
    ("objects/s", "objects-per-s"),
    ("caught up in, s", "caught-up-in-s"),
    ("parked", "parked"),
    ("last success", "last-success"),
    ("last error", "last-error"),
)
_UPSTREAMS = (
    ("upstream", "name"),
    ("state", "state"),
    ("hits", "hits"),
    ("misses", "misses"),
    ("silences", "silences"),
    ("last answer, s ago", "last-answer-s-ago"),
    ("last error", "last-error"),
)


def status_page(facts: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """Return the page; whatever text is in facts is shown as text."""
    name = html.escape(str(facts.get("node", "")))
    state = html.escape(": ".join(str(facts[k]) for k in ("status", "reason") if k in facts))
    listed = "".join(f'<li><a href="{path}">{path}</a>: {what}' for what, path in links.items())
    shown = html.escape(json.dumps({k: v for k, v in facts.items() if k != "links"}, indent=2))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="refresh" content="{_REFRESH_S}"><style>{_STYLE}</style>'
        f"<h1>{name}</h1><p>{state}</p>"
        f"{_table(_PEERS, facts.get('peers', ()))}{_table(_UPSTREAMS, facts.get('upstreams', ()))}"
        f"<ul>{listed}</ul><pre>{shown}</pre></html>\n"
    )


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return nothing for no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{title}" for title, _ in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(row.get(key))}" for _, key in columns) for row in rows
    )
    return f"<table><tr>{head}{body}</table>"


def _text(value: object) -> str:
    return "" if value is None else html.escape(str(value))
