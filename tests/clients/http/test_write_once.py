"""Two builds that make the same output at once: which one stays, and neither is stopped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.http.javascript import Nx
from tests.clients.http.sites import listeners, over_http
from tests.support.polling import wait_until
from tests.support.process import serve

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]


@pytest.mark.parametrize("write_once", [True, False])
def test_nx_goes_on_where_its_output_comes_too_late(tmp_path: Path, write_once: bool) -> None:
    slow, fast, reader = (Nx(tmp_path / name) for name in ("slow", "fast", "reader"))
    pause = tmp_path / "pause"
    pause.mkdir()
    rules = [{"match": "nx", "write-once": write_once}]
    (tmp_path / "node").mkdir()
    settings = {"listeners": listeners(), "namespaces": rules}
    with serve(tmp_path / "node" / "data", settings) as node, ThreadPoolExecutor(1) as beside:
        late = beside.submit(slow.build, over_http(node), pause=pause)
        try:
            # By then it has asked the cache for each of them, and found none.
            wait_until(
                lambda: late.done() or len(list(pause.glob("begun-*"))) == Nx.actions,
                "the slow build has begun",
            )
            first = fast.build(over_http(node))
        finally:
            (pause / "go").touch()
        last = late.result()
        assert (first.hits, first.executed) == (0, Nx.actions), first.output
        assert (last.hits, last.executed) == (0, Nx.actions), last.output
        read = reader.build(over_http(node))
        assert (read.hits, read.executed) == (Nx.actions, 0), read.output
        assert first.outputs != last.outputs
        assert read.outputs == (first if write_once else last).outputs
