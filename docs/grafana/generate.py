"""Writes the dashboards beside it from the tables in boards/, in Grafana's JSON.

Run it after a change of these; with --check it only reports whether a file is stale.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from boards import DASHBOARDS  # noqa: E402
from boards.panel import Dashboard, Panel  # noqa: E402

_SCHEMA_VERSION = 39  # Grafana 10.2 and newer read it
_WIDTH = 24  # of a row, in Grafana's columns
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SELECTOR = 'job=~"$job", instance=~"$instance"'


def render(dashboard: Dashboard) -> str:
    """Return one dashboard as the text of its file."""
    shown = {
        "uid": f"federation-{dashboard.name}",
        "title": f"federation: {dashboard.title}",
        "description": dashboard.text,
        "tags": ["federation"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "graphTooltip": 1,  # one crosshair for all panels
        "links": [
            {
                "type": "dashboards",
                "tags": ["federation"],
                "title": "federation",
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": list(_variables())},
        "panels": list(_placed(dashboard.panels)),
    }
    return json.dumps(shown, indent=1) + "\n"


def expression(text: str) -> str:
    """Return a query of boards/ as Grafana gets it: `@` is the selector of the chosen nodes."""
    return text.replace("@", _SELECTOR).replace("[~]", "[$__rate_interval]")


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "source"}
    for name, label, scope in (("job", "job", ""), ("instance", "node", '{job=~"$job"}')):
        query = f"label_values(federation_build_info{scope}, {name})"
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,  # when the time range changes
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _placed(panels: tuple[Panel, ...]) -> Iterator[dict[str, Any]]:
    """Yield the panels from left to right, in rows as high as their first panel."""
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > _WIDTH:
            x, y = 0, y + height
        if x == 0:
            height = panel.height
        yield {
            "id": number,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.text,
            "datasource": _SOURCE,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
            "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
            "options": _options(panel),
            "targets": [
                {
                    "refId": chr(ord("A") + at),
                    "datasource": _SOURCE,
                    "expr": expression(query),
                    "legendFormat": legend,
                    "instant": panel.is_instant,
                    "range": not panel.is_instant,
                    "format": "table" if panel.kind == "table" else "time_series",
                }
                for at, (legend, query) in enumerate(panel.queries.items())
            ],
        }
        x += panel.width


def _defaults(panel: Panel) -> dict[str, Any]:
    shown: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never"}
        if panel.is_stacked:
            custom |= {"fillOpacity": 60, "stacking": {"mode": "normal", "group": "A"}}
        shown |= {"custom": custom, "min": 0}
    if panel.bad_from is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.bad_from}]
        if panel.is_bad_below:
            steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.bad_from}]
        shown |= {"thresholds": {"mode": "absolute", "steps": steps}}
    return shown


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    return {}


def main() -> int:
    """Write the files, or compare them."""
    check = "--check" in sys.argv[1:]
    stale = False
    for dashboard in DASHBOARDS:
        target, text = FOLDER / f"{dashboard.name}.json", render(dashboard)
        if check:
            stale |= not target.exists() or target.read_text() != text
        else:
            target.write_text(text)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
