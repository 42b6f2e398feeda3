"""Pins of a shared site: leads that move, crashes of the database, and what commands do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation.closure.pinned import pin_walk
from federation.config.model import LimitsConfig
from federation.core.digest import Digest, digest_of
from federation.core.errors import InvalidRequest, LeadLost, SourceUnavailable
from federation.core.pins import PinKind, PinTarget
from federation.storage.factory import operations_on
from federation.storage.pin_walk import PinWalker
from federation.storage.shared.storage import SharedStorage
from federation.storage.shared.upkeep.site_expiry import SiteExpiry
from federation.storage.shared.upkeep.site_pin_keeping import SitePinKeeping
from tests.contracts.pins.pinned import (
    LARGE,
    LEAF,
    MAIN,
    OTHER,
    held,
    names,
    of_a_peer,
    pin,
    put,
    report,
    result,
    tree_of,
    wanted,
)
from tests.contracts.pins.sites import Action, NodesSite, interrupted
from tests.support.messages import directory
from tests.support.polling import until
from tests.support.sites import TestSite

pytestmark = pytest.mark.servers

KEYS = {"lease": 3600, "quota": 100_000_000}


@pytest.fixture
async def node(site: TestSite, tmp_path: Path) -> AsyncIterator[SharedStorage]:
    async with site.node(tmp_path / "one", **KEYS) as opened:
        yield opened


@pytest.fixture
def pinning(site: TestSite, node: SharedStorage) -> NodesSite:
    return NodesSite(site, node, node)


def crash(site: TestSite) -> None:
    site.servers.database.kill()
    site.servers.database.start()


async def crashed(pinning: NodesSite) -> None:
    """Kill the database, start it again, and wait until the node asks it again."""
    await asyncio.to_thread(crash, pinning.site)
    polled: list[object] = []
    pinning.nodes[0].core.catalogue.watch.follow(polled.append)
    await until(lambda: any(polled), "the node has heard from the database")


def keeping(pinning: NodesSite, meanwhile: Action) -> SitePinKeeping:
    """Return what keeps pins; something happens as it looks what the first entry names."""
    made = SitePinKeeping(pinning.nodes[0].core)
    made.walk_with(pinning.nodes[0], interrupted(meanwhile), None)
    return made


async def test_another_lead_goes_on_and_the_one_before_notes_nothing_more(
    site: TestSite, tmp_path: Path, pinning: NodesSite
) -> None:
    digests = await tree_of(pinning, LEAF)
    await of_a_peer(pinning)
    _, lead = await pinning.leader()
    await pinning.index.put([result(b"a", digests[0])])

    async def overtaken() -> None:
        site.sql("UPDATE lead SET term = term + 1, node = 'other' WHERE role = 'upkeep'")

    before = keeping(pinning, overtaken)
    with pytest.raises(LeadLost):
        await before.step(lead)
    assert not (await report(pinning)).is_settled
    await pinning.nodes[0]._upkeep.close()
    site.sql("UPDATE lead SET node = NULL WHERE role = 'upkeep'")  # that lead resigns
    async with site.node(tmp_path / "other", **KEYS) as other:
        moved = NodesSite(site, other, other)
        await moved.settle()
        found = await report(moved)
        assert (found.is_settled, found.entries, found.blobs) == (True, 1, 3)


async def test_a_crash_of_the_database_during_a_look_has_it_done_again(
    pinning: NodesSite,
) -> None:
    """What was kept may be lost then, though the statements that follow succeed."""
    digests = await tree_of(pinning, LEAF)
    await pinning.index.put([result(b"a", digests[0])])
    await of_a_peer(pinning)
    _, lead = await pinning.leader()

    made = keeping(pinning, lambda: crashed(pinning))
    with pytest.raises(LeadLost, match="was restarted"):
        await made.step(lead)
    assert not (await report(pinning)).is_settled
    await pinning.settle()
    found = await report(pinning)
    assert (found.is_settled, found.is_whole, found.entries, found.blobs) == (True, True, 1, 3)
    await pinning.evict_all()
    assert await held(pinning, digests) == digests


async def test_a_crash_of_the_database_as_an_entry_is_completed_leaves_it_incomplete(
    pinning: NodesSite,
) -> None:
    root = await put(pinning, directory({"f": digest_of(LEAF)}))
    await pinning.index.put([result(b"a", root)])
    assert (await pin(pinning)).incomplete == 1
    await put(pinning, LEAF)
    await pinning.pass_ms(90_000_000)
    _, lead = await pinning.leader()
    made = keeping(pinning, lambda: crashed(pinning))
    with pytest.raises(LeadLost, match="was restarted"):
        await made.step(lead)
    assert (await report(pinning)).incomplete == 1
    await pinning.settle()
    found = await report(pinning)
    assert (found.is_whole, found.entries, found.blobs) == (True, 1, 2)


async def test_of_a_pin_that_a_crash_of_the_database_cut_off_nothing_stays(
    pinning: NodesSite,
) -> None:
    digests = await tree_of(pinning, LEAF)
    await pinning.index.put([result(b"a", digests[0])])
    crashing = interrupted(lambda: crashed(pinning))
    walker = PinWalker(pinning.pins.keepings, pinning.nodes[0], crashing)
    with pytest.raises(SourceUnavailable, match="was restarted"):
        await pinning.pins.pin(wanted(), walker)
    assert (await pinning.asked.report()).pins == []
    await pinning.settle()
    assert (await pinning.asked.report()).size_bytes == 0
    assert (await pin(pinning)).is_whole
    await crashed(pinning)
    found = await report(pinning)
    assert (found.is_whole, found.entries, found.blobs) == (True, 1, 3)


async def test_two_nodes_that_pin_at_once_stay_within_the_bound(
    site: TestSite, tmp_path: Path, pinning: NodesSite
) -> None:
    trees = [await tree_of(pinning, LARGE + bytes([at])) for at in range(4)]
    entries = [result(b"%d" % at, tree[0], instance=str(at)) for at, tree in enumerate(trees)]
    await pinning.index.put(entries)
    pinning.reconfigure(pins_max="250K")
    async with site.node(tmp_path / "other", **KEYS, pins_max="250K") as other:
        sides = [pinning, NodesSite(site, other, other)]
        targets = [PinTarget(PinKind.INSTANCE, str(at)) for at in range(4)]
        pins = [pin(sides[at % 2], target) for at, target in enumerate(targets)]
        found = await asyncio.gather(*pins, return_exceptions=True)
        refused = [each for each in found if isinstance(each, BaseException)]
        assert 2 <= len(refused) <= 4
        assert (await pinning.asked.report()).size_bytes <= 250 * 1024


async def test_a_walk_for_a_peer_has_what_is_kept_and_what_is_not_once_each(
    pinning: NodesSite,
) -> None:
    kept, free = await tree_of(pinning, LEAF), await put(pinning, OTHER)
    await pinning.index.put([result(b"a", kept[0])])
    await pin(pinning)
    seen: list[Digest] = []
    position: str | None = None
    while True:
        page = await pinning.nodes[0].ledger.blobs(position, 2)
        assert all(0 <= each < 3600 for each in page.unused_s)
        seen += page.digests
        if page.next is None:
            break
        position = page.next
    assert [seen.count(each) for each in kept] == [1, 1, 1]
    assert free in seen


async def test_what_is_given_back_has_its_place_in_the_order_of_use_again(
    site: TestSite, pinning: NodesSite
) -> None:
    digests = await tree_of(pinning, LEAF)
    await pinning.index.put([result(b"a", digests[0])])
    before = site.sql("SELECT key, era FROM blob ORDER BY key")
    await pin(pinning)
    assert site.sql("SELECT count(*) FROM blob WHERE era < 536870912") == [(0,)]
    await pinning.pins.unpin([MAIN], "bob")
    await pinning.settle()
    assert site.sql("SELECT key, era FROM blob ORDER BY key") == before
    assert site.sql("SELECT count(*) FROM keeping") == [(0,)]
    assert site.sql("SELECT bytes FROM pinned") == [(0,)]


async def test_commands_pin_list_explain_and_unpin_beside_the_nodes(
    tmp_path: Path, pinning: NodesSite
) -> None:
    digests = await tree_of(pinning, LEAF, LARGE)
    entry = result(b"a", digests[0])
    await pinning.index.put([entry])
    core = pinning.nodes[0].core
    commands = operations_on(tmp_path / "one", core.settings)
    made = await asyncio.to_thread(commands.pin, wanted(), pin_walk(LimitsConfig()))
    assert (made.entries, made.blobs, made.is_whole) == (1, 4, True)
    assert (await asyncio.to_thread(commands.pins)).pins == [made]

    def explained() -> tuple[str, str, list[str]]:
        with commands.explaining() as explainer:
            (found,) = explainer.action_results(digest_of(b"a"), "main")
            blob = explainer.blob(digests[0])
        checked = commands.verify(lambda *_: None, repair=False)
        return blob["eviction"], found.facts["eviction"], checked.catalogue_problems

    pinned = "no: pinned by a target"
    assert await asyncio.to_thread(explained) == (pinned, pinned, [])
    facts = (await asyncio.to_thread(commands.summary))["pins"]
    assert (facts["pins"], facts["bytes"], facts["entries"]) == (1, made.size_bytes, 1)
    assert facts["max-bytes"] == 25_000_000
    await until(lambda: core.catalogue.watch.row.pinned_bytes == made.size_bytes, "it is polled")
    gone = await asyncio.to_thread(commands.unpin, [MAIN], "bob")
    assert [each.label for each in gone] == ["a target"]
    await pinning.settle()
    await pinning.evict_all()
    assert await held(pinning, digests) == []
    assert await names(pinning, entry) == [False]


@pytest.mark.parametrize("why", ["another node leads", "was restarted"])
async def test_a_lead_that_is_lost_between_looking_and_giving_back_gives_nothing_back(
    site: TestSite, pinning: NodesSite, why: str
) -> None:
    digests = await tree_of(pinning, LEAF)
    await pinning.index.put([result(b"a", digests[0]), result(b"b", digests[0], instance="rel")])
    await pin(pinning)
    await pin(pinning, PinTarget(PinKind.INSTANCE, "rel"))
    await pinning.settle()
    await pinning.pins.unpin([MAIN], "bob")
    _, lead = await pinning.leader()

    async def overtaken() -> None:
        site.sql("UPDATE lead SET term = term + 1 WHERE role = 'upkeep'")

    is_crash = why == "was restarted"
    made = keeping(pinning, (lambda: crashed(pinning)) if is_crash else overtaken)
    with pytest.raises(LeadLost, match=why):
        await made.step(lead)
    assert site.sql("SELECT count(*) FROM blob WHERE kept IS NULL") == [(0,)]


async def test_nothing_expires_while_leases_may_be_lost(site: TestSite, pinning: NodesSite) -> None:
    entries = [result(b"%d" % at, instance="pr") for at in range(1203)]
    await pinning.index.put(entries)
    await pinning.pass_ms(4 * 3_600_000)
    pinning.reconfigure(expire_after={"pr": "2h"})
    site.sql("UPDATE clock SET hold_ms = now_ms + 3600000")
    assert await pinning.expire() == 0
    site.sql("UPDATE clock SET hold_ms = 0")
    assert await pinning.expire() == 1203
    assert site.sql("SELECT entries, bytes FROM site") == [(0, 0)]


async def test_no_expiry_by_who_led_before(site: TestSite, pinning: NodesSite) -> None:
    await pinning.index.put([entry := result(b"a", instance="pr")])
    await pinning.pass_ms(4 * 3_600_000)
    pinning.reconfigure(expire_after={"pr": "2h"})
    node, lead = await pinning.leader()
    site.sql("UPDATE lead SET term = term + 1 WHERE role = 'upkeep'")
    with pytest.raises(LeadLost):
        await SiteExpiry(node.core).round(lead)
    assert await names(pinning, entry) == [True]


async def test_there_are_at_most_a_thousand_pins_and_one_trial_of_a_target(
    site: TestSite, pinning: NodesSite
) -> None:
    site.sql(
        "INSERT INTO pin (target, label, note, who, at, ticks, node, seq) "
        "SELECT convert_to('x' || n, 'UTF8'), '', '', '', 0, 0, '', n "
        "FROM generate_series(1, 999) n"
    )
    await pinning.pins.records.begin_trial(wanted())
    with pytest.raises(InvalidRequest, match="there are 1000 pins already"):
        await of_a_peer(pinning)
    site.sql("DELETE FROM pin WHERE seq = 1")
    with pytest.raises(InvalidRequest, match="another command is pinning the same"):
        await pinning.pins.records.begin_trial(wanted())
