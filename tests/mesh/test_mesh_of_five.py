"""Five nodes, four joins, and an object that is pushed to one is at all five."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from federation.core.digest import digest_of
from tests.mesh.served import ServedSite
from tests.support.polling import wait_until
from tests.support.process import federation
from tests.support.process_client import Client

NAMES = ("paris", "tokyo", "osaka", "lima", "oslo")
LARGE = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[list[ServedSite]]:
    with ExitStack() as stack:
        yield [ServedSite(tmp_path, name, stack, log={"format": "json"}).start() for name in NAMES]


def states(site: ServedSite) -> dict[str, str]:
    code, text = site.node.http_get("/")
    assert code == 200, text
    return {each["name"]: each["state"] for each in json.loads(text)["peers"]}


def test_a_mesh_of_five_is_four_joins(sites: list[ServedSite]) -> None:
    paris, *others = sites
    for number, site in enumerate(others):
        if number == 2:
            others[0].node.stop()  # one that is away hears of the newcomers once it is back
        facts = site.run("join", paris.invite(), "--yes")
        known = {paris.name, *(each.name for each in others[:number])}
        assert {facts["inviter"]["name"], *(x["name"] for x in facts["others"])} == known
        assert set(facts["added"]) == known
        assert not facts["not-taken"]
    others[0].start()

    def all_follow() -> bool:
        return all(
            set(found) == set(NAMES) - {site.name} and set(found.values()) == {"following"}
            for site in sites
            for found in [states(site)]
        )

    wait_until(all_follow, "everybody follows everybody", timeout_s=60)
    with Client(others[3].node.address) as client:
        client.write(LARGE)
        client.push_blob("urn:of-oslo", digest_of(LARGE))
    for site in sites:
        with Client(site.node.address) as client:
            fetched = partial(client.fetch_blob, "urn:of-oslo")
            wait_until(lambda: fetched() == digest_of(LARGE), f"at {site.name}", timeout_s=60)  # noqa: B023
            assert client.read(digest_of(LARGE)) == LARGE
    assert paris.knows() == dict.fromkeys(NAMES[1:], "invited")
    assert others[3].knows() == {"paris": "inviter"} | dict.fromkeys(NAMES[1:4], "introduced")


def test_a_member_that_was_removed_is_refused_and_stays_away(sites: list[ServedSite]) -> None:
    paris, tokyo, osaka, *_ = sites
    for site in (tokyo, osaka):
        site.run("join", paris.invite(), "--yes")
    wait_until(lambda: "osaka" in tokyo.knows(), "tokyo has heard of osaka")
    tokyo.run("members", "remove", "osaka")
    wait_until(lambda: set(states(tokyo)) == {"paris"}, "tokyo sends to paris alone")
    paris.node.stop()
    paris.start()  # it tells everybody once more
    wait_until(lambda: "introductions_not_taken" in paris.node.log, "tokyo does not take it")
    assert tokyo.knows() == {"paris": "inviter"}


def test_joining_has_to_be_confirmed_and_a_code_can_be_read_from_standard_input(
    sites: list[ServedSite],
) -> None:
    paris, tokyo, *_ = sites
    code = paris.invite()
    refused = federation("join", code, "--config", str(tokyo.config()))
    assert refused.returncode == 2
    assert "give --yes" in refused.stderr
    looked = federation("join", "-", "--dry-run", "--config", str(tokyo.config()), input=code)
    assert looked.returncode == 0, looked.stderr
    assert "paris invites this node" in looked.stdout
    assert (paris.knows(), tokyo.knows()) == ({}, {})
    wrong = federation("join", code[:-6] + "xxxxxx", "--yes", "--config", str(tokyo.config()))
    assert wrong.returncode == 2
    assert "mistyped" in wrong.stderr
