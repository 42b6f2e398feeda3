"""The page for people: what is on it, that text stays text, and that it answers without a disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from federation.config.model import Config, StorageConfig
from federation.core.clock import ManualClock, SystemClock
from federation.core.replication_log import Parked
from federation.observability.statistics.history import History
from federation.server.dashboard import charts, mesh
from federation.server.dashboard.dashboard import Dashboard
from federation.server.dashboard.setup import make_dashboard
from federation.server.dashboard.stored import Stored, StoredFacts
from federation.server.http.router import HttpAnswer, HttpRequest
from federation.storage.admin.operations import DirectoryOperations

EVIL = "<script>alert(1)</script>"
HTML = "text/html,*/*"
UPSTREAM = {"name": "hq", "state": "failing", "failures": 3, "failures-max": 5, "last-error": EVIL}
FACTS = {
    "node": "paris",
    "version": "1.0",
    "status": "serving",
    "started-at": "2027-01-15T07:00:00+00:00",
    "requests-per-s": 2.0,
    "upstreams": [UPSTREAM],
    "peers": [
        {"name": "tokyo", "state": "following", "lag-objects": 7, "lag-bytes": 9, "lag-s": 1.0}
    ],
    "recent-warnings": [
        {"at": "2027-01-15T07:30:00Z", "level": "error", "event": "peer_fails", "text": EVIL}
    ],
}
SUMMARY: dict[str, Any] = {
    "blobs": 3,
    "entries": 2,
    "held-bytes": 2**30,
    "quota-bytes": 2**32,
    "quarantine": {"blobs": 1, "newest": [f"aa/1: {EVIL}"]},
    "healing": {"lost": 1},
    "peers": [],
}


class Reads:
    def __init__(self, stored: Stored | None) -> None:
        self.stored = stored

    async def get(self) -> Stored | None:
        return self.stored


def filled(clock: ManualClock) -> Stored:
    history = History()
    history.add({f"instance/{EVIL}": {"hits": 3, "misses": 1, "out-bytes": 5000}}, clock.wall_s())
    history.add({"peer/tokyo": {"sent-objects": 1, "sent-bytes": 2048}}, clock.wall_s())
    parked = Parked("tokyo", 1, None, None, EVIL, f"it says {EVIL}", clock.wall_s())
    return Stored(SUMMARY, [parked], history, [])


async def page(
    stored: Stored | None, facts: Mapping[str, Any] = FACTS, query: str = ""
) -> HttpAnswer:
    async def own() -> Mapping[str, Any]:
        return facts

    dashboard = Dashboard(Reads(stored), lambda asked: {"asked": asked}, ManualClock())
    answer = await dashboard.answer(HttpRequest("GET", "/", accept=HTML, query=query), own)
    assert answer is not None
    return answer


async def test_all_that_an_operator_looks_for_is_on_the_page() -> None:
    text = (await page(filled(ManualClock()))).body.decode()
    for shown in (
        "1.0G of 4.0G, 25 %; 3 blobs, 2 entries",
        "hq failing 3 of 5",
        "tokyo following, 7 objects (9) behind",
        "75 %",
        "2.0K today, 7 objects behind",
        "peer_fails",
        "1 damaged blob has not come back yet",
    ):
        assert shown in text, shown
    assert text.count("<svg") == 4


async def test_text_that_others_chose_is_only_text() -> None:
    text = (await page(filled(ManualClock()), query="explain=%3Cscript%3Ealert(1)")).body.decode()
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 5


async def test_the_browser_is_told_to_load_nothing_from_elsewhere() -> None:
    answer = await page(filled(ManualClock()))
    assert answer.headers is not None
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    text = answer.body.decode()
    assert " style=" not in text  # the policy would not apply it
    assert "http:" not in text
    assert "https:" not in text


async def test_a_disk_that_hangs_leaves_what_is_in_memory() -> None:
    text = (await page(None)).body.decode()
    assert "not known: the storage does not answer" in text
    assert "hq failing 3 of 5" in text


async def test_what_is_asked_for_is_explained() -> None:
    text = (await page(filled(ManualClock()), query="explain=kv%2Fmain%2Fkey")).body.decode()
    assert "&#34;asked&#34;: &#34;kv/main/key&#34;" in text
    assert 'value="kv/main/key"' in text


async def test_a_query_with_too_many_fields_asks_nothing() -> None:
    text = (await page(filled(ManualClock()), query="explain=1&" + "a=1&" * 10)).body.decode()
    assert "hq failing 3 of 5" in text
    assert "&#34;asked&#34;" not in text


async def test_workers_are_shown_as_one_node() -> None:
    workers = [{"worker": n, "pid": n, **FACTS} for n in (1, 2)]
    facts = {"node": "paris", "status": "serving", "workers": workers}
    text = (await page(filled(ManualClock()), facts)).body.decode()
    assert "paris 1.0, serving (2 processes)" in text
    assert "4.0 a second" in text


@pytest.mark.parametrize("name", ["dashboard.css", "dashboard.js"])
async def test_files_are_sent_as_what_they_are(tmp_path: Path, name: str) -> None:
    config = Config.model_validate({"data-dir": tmp_path})
    dashboard = make_dashboard(config, SystemClock())

    async def facts() -> Mapping[str, Any]:
        pytest.fail("a file needs no facts")

    answer = await dashboard.answer(HttpRequest("GET", f"/{name}"), facts)
    assert answer is not None
    assert answer.status == 200
    assert answer.content_type.startswith("text/css" if name.endswith("css") else "text/javascript")
    other = await dashboard.answer(HttpRequest("GET", "/dashboard.html"), facts)
    assert other is None


async def test_a_directory_that_cannot_be_read_is_told_on_the_page(tmp_path: Path) -> None:
    config = Config.model_validate({"data-dir": tmp_path / "nothing"})
    dashboard = make_dashboard(config, SystemClock())

    async def facts() -> Mapping[str, Any]:
        return FACTS

    request = HttpRequest("GET", "/", accept=HTML, query="explain=a:b")
    answer = await dashboard.answer(request, facts)
    assert answer is not None
    text = answer.body.decode()
    assert "nothing" in text
    assert "&#34;error&#34;" in text


def test_charts_stay_within_their_frame() -> None:
    history, now_s = History(), 1_800_000_000.0
    for ago_s, hits in ((0, 5), (3600, 100), (80_000, 1)):
        history.add({"instance/": {"hits": hits, "out-bytes": -4}}, now_s - ago_s)
    for chart in charts.charts(history, now_s):
        assert [hour for _, hour in chart.ticks] == ["12:00", "18:00", "00:00", "06:00"]
        for series in chart.series:
            numbers = [float(n) for n in series.line.replace("M", "").replace("L", "").split()]
            assert all(0 <= x <= charts.WIDTH for x in numbers[::2])
            assert all(0 <= y <= charts.HEIGHT for y in numbers[1::2])
    assert charts.charts(history, now_s)[0].highest == "100 in 10 min"


def test_a_large_mesh_is_drawn_in_part_and_says_so() -> None:
    many = [{"name": f"n{n}", "state": "up"} for n in range(30)]
    drawing = mesh.mesh(many, [], {"upstreams": [], "peers": []})
    assert (len(drawing.upstreams), drawing.left_out) == (12, 18)
    assert all(0 < node.y < drawing.height for node in drawing.upstreams)


class FailsOnce(DirectoryOperations):
    """A storage that meets a bug at the first look."""

    looks = 0

    def summary(self) -> dict[str, Any]:
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError("a bug")
        return SUMMARY

    def parked(self, peer: str | None, limit: int) -> Sequence[Parked]:
        return []


async def test_a_look_that_failed_is_repeated_and_one_that_did_not_is_kept(tmp_path: Path) -> None:
    storage, clock = FailsOnce(tmp_path, StorageConfig()), ManualClock()
    stored = StoredFacts(storage, tmp_path, clock)
    with pytest.raises(RuntimeError):
        await stored.get()
    for _ in range(3):
        found = await stored.get()
        assert found is not None
        assert found.summary == SUMMARY
    assert storage.looks == 2
    clock.advance(2.5)
    await stored.get()
    assert storage.looks == 3
