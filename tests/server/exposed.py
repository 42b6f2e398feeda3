"""Every metric that nodes have, with the names of its labels."""

from __future__ import annotations

import re
from pathlib import Path

from federation.observability.metrics import Metrics
from federation.observability.series import Labelled
from tests.support.polling import wait_until
from tests.support.process import serve

SCRAPED = {"instance", "job"}  # the labels that Prometheus adds
_OTHER = {"url": "grpc://127.0.0.1:1"}
_NOT_SEEN = {  # those of a parent of workers, and of a peer that has taken something
    "federation_workers": {"state"},
    "federation_worker_restarts_total": set[str](),
    "federation_peer_last_success_timestamp_seconds": {"peer"},
    "federation_peer_skipped_objects_total": {"peer", "reason"},
}


def exposed_labels(folder: Path) -> dict[str, set[str]]:
    """Return the labels of each metric of a node with a peer and an upstream, by its name.

    A label `instance` of a node's own is `exported_instance` in Prometheus, and so here.
    """
    settings = {"peers": [{"name": "tokyo", **_OTHER}], "upstreams": [{"name": "hq", **_OTHER}]}
    with serve(folder / "data", settings) as node:
        wait_until(lambda: node.metrics().value("federation_replicates") == 1, "it replicates")
        text = node.http_get("/metrics")[1]
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    found = {name: set[str]() for name in names} | _NOT_SEEN
    for sample, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", text, re.MULTILINE):
        found[base(sample, found)] |= set(re.findall(r"(\w+)=", labels))
    for name, labels in _declared().items():
        found[name] |= labels
    return {name: {_scraped(label) for label in labels} for name, labels in found.items()}


def base(sample: str, metrics: dict[str, set[str]]) -> str:
    """Return the metric that a sample belongs to: a histogram has several kinds."""
    name = re.sub("_(bucket|count|sum)$", "", sample)
    return sample if sample in metrics else name


def _declared() -> dict[str, set[str]]:
    """Return the labels of metrics that a process declares; they may have no sample yet."""
    return {
        name + ("_total" if kind == "counter" else ""): set(metric._names)
        for name, (kind, _, metric) in Metrics().declared._metrics.items()
        if isinstance(metric, Labelled)
    }


def _scraped(label: str) -> str:
    return f"exported_{label}" if label in SCRAPED else label
