"""`federation explain`: what is known of a blob, an asset, an action result, here and upstream."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from federation.cli import main
from federation.core.digest import DigestFunction, digest_of
from tests.support.polling import wait_until
from tests.support.process import Node, federation, serve
from tests.support.process_client import Client, action_result

LARGE = b"x" * 300_000  # more than fits the catalogue: such a blob is a file
SMALL, PUSHED = b"small", b"pushed here"
ACTION = digest_of(b"an action")
URI, HOLED_URI = "https://example.com/whole", "https://example.com/holes"
ABSENT = digest_of(b"nobody has this")


Place = tuple[str, Path]  # an option that says which node, and its value


def explain(*args: object, code: int) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["explain", *map(str, args), "--json"])
    assert done.exit_code == code, done.output
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose upstreams are a node that serves, one that is gone, and one for names only."""
    path = tmp_path_factory.mktemp("sites")
    with serve(path / "hq", name="hq") as hq, Client(hq.address) as there:
        for data in (LARGE, SMALL, b"in holes"):
            there.write(data)
        there.update_action_result(ACTION, action_result([("out", digest_of(SMALL))]))
        there.push_blob(URI, digest_of(LARGE), [digest_of(SMALL)])
        upstreams = [
            {"name": "hq", "url": f"grpc://{hq.address}"},
            {"name": "gone", "url": "grpc://127.0.0.1:1"},
            {"name": "names", "url": f"grpc://{hq.address}", "type": "index"},
        ]
        rules = [{"match": "pr/*", "reads-from": ["main"]}]
        settings = {"upstreams": upstreams, "instances": rules}
        with serve(path / "here", settings, name="here") as here, Client(here.address) as client:
            client.write(PUSHED)
            client.push_blob(HOLED_URI, digest_of(PUSHED), [digest_of(b"in holes"), ABSENT])
            assert client.read(digest_of(LARGE)) == LARGE
            assert client.get_action_result(ACTION) is not None
            yield here


@pytest.fixture
def place(sites: Node) -> Place:
    return ("--config", sites.config_path)


def answers(facts: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["answer"] for each in facts["upstreams"]}


def test_a_blob_that_a_client_pushed(place: Place) -> None:
    facts = explain(digest_of(PUSHED), *place, code=0)
    assert facts["here"] is True
    assert (facts["kept"], facts["bytes"]) == ("inside the catalogue", len(PUSHED))
    assert (facts["source"], facts["via"], facts["quarantine"]) == ("client", [], [])
    assert facts["eviction"].startswith("no: leased")
    assert 0 <= facts["last-use-s-ago"] < 600
    assert 0 <= facts["verified-s-ago"] < 600
    assert answers(facts) == {"hq": "absent", "gone": "silent", "names": "not asked"}
    reasons = {each["name"]: each.get("reason") for each in facts["upstreams"]}
    assert "unavailable" in reasons["gone"]
    assert "type: index" in reasons["names"]


def test_a_blob_that_an_upstream_sent_is_found_by_its_hash_alone(place: Place) -> None:
    digest = digest_of(LARGE)
    facts = explain(digest.hash_hex.upper(), *place, code=0)
    assert (facts["digest"], facts["source"]) == (str(digest), "upstream hq")
    assert facts["kept"].endswith(f"{digest.hash_hex}-{len(LARGE)}")
    assert answers(facts)["hq"] == "present"


def test_a_blob_that_is_nowhere(place: Place) -> None:
    facts = explain(ABSENT, *place, code=1)
    assert facts["here"] is False
    assert answers(facts)["hq"] == "absent"
    assert explain(ABSENT.hash_hex, *place, code=1)["note"].startswith("no blob with this hash")
    blake3 = digest_of(PUSHED, DigestFunction.BLAKE3)
    assert explain(blake3, *place, code=1)["digest"] == str(blake3)


def test_the_hash_with_another_size_is_not_the_blob(place: Place) -> None:
    facts = explain(f"{digest_of(PUSHED).hash_hex}/5", *place, code=1)
    assert (facts["here"], facts["problem"]) == (
        False,
        f"the blob held under this hash has {len(PUSHED)} bytes",
    )


def test_an_action_result_that_was_pulled(place: Place) -> None:
    facts = explain("--action", ACTION, *place, code=0)
    (entry,) = facts["entries"]
    assert (entry["kind"], entry["source"], entry["expires-at"]) == (
        "action result",
        "upstream hq",
        "never",
    )
    assert entry["closure"] == {"complete": True, "blobs": 1, "structures": 0, "missing": []}
    assert answers(facts) == {"hq": "present", "gone": "silent", "names": "present"}
    assert facts["upstreams"][0]["same-as-here"] is True


def test_an_asset_with_holes_names_them_and_who_could_fill_them(place: Place) -> None:
    facts = explain(HOLED_URI, *place, code=1)
    (entry,) = facts["entries"]
    assert (entry["source"], entry["content"]) == ("client", str(digest_of(PUSHED)))
    assert entry["closure"]["complete"] is False
    assert sorted(entry["closure"]["missing"]) == sorted(map(str, [ABSENT, digest_of(b"in holes")]))
    hq = facts["upstreams"][0]
    assert (hq["answer"], hq["has-of-the-missing"]) == ("absent", "1 of 2")


def test_an_asset_that_only_an_upstream_has(place: Place) -> None:
    facts = explain(URI, *place, code=1)
    assert facts["entries"] == []
    assert facts["upstreams"][0]["asset-blob"] == str(digest_of(LARGE))
    assert facts["upstreams"][0]["answer"] == "present"
    asked = ("--qualifier", "resource_type=application/octet-stream")
    assert answers(explain(URI, *asked, *place, code=1))["hq"] == "absent"


def test_another_instance_has_entries_of_its_own(place: Place) -> None:
    assert explain(HOLED_URI, "--instance", "other", *place, code=1)["entries"] == []
    assert len(explain(HOLED_URI, "--instance", "", *place, code=1)["entries"]) == 1
    assert len(explain("--action", ACTION, "--instance", "", *place, code=0)["entries"]) == 1


def test_an_instance_that_reads_from_another_says_so(place: Place) -> None:
    assert explain(*place, HOLED_URI, "--instance", "pr/7", code=1)["reads-from"] == ["main"]
    assert "reads-from" not in explain(*place, HOLED_URI, "--instance", "main", code=1)


def test_without_a_configuration_no_upstream_is_known(sites: Node) -> None:
    facts = explain(digest_of(PUSHED), "--data-dir", sites.data_dir, code=0)
    assert "upstreams" not in facts


def test_upstreams_are_left_alone_while_offline(sites: Node, tmp_path: Path) -> None:
    settings = yaml.safe_load(sites.config_path.read_text())
    path = tmp_path / "offline.yaml"
    path.write_text(yaml.safe_dump({**settings, "offline": True}))
    facts = explain(ABSENT, "--config", path, code=1)
    assert set(answers(facts).values()) == {"not asked"}


def test_people_get_lines(place: Place) -> None:
    done = CliRunner().invoke(main, ["explain", str(digest_of(PUSHED)), *map(str, place)])
    assert f"digest: {digest_of(PUSHED)}\nhere: yes\n" in done.stdout
    assert "  - name: hq\n    answer: absent\n" in done.stdout


def test_the_empty_blob_is_always_here(place: Place) -> None:
    assert explain(digest_of(b""), *place, code=0)["here"] is True


def test_damage_is_told_before_and_after_it_is_set_aside(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    place = ("--data-dir", data_dir)
    with serve(data_dir) as node, Client(node.address) as client:
        client.write(LARGE)
        client.update_action_result(ACTION, action_result([("out", digest_of(LARGE))]))
        node.stop()
    assert explain("--action", ACTION, *place, code=0)
    (path,) = [p for p in data_dir.glob("blobs/*/*") if p.is_file()]
    path.write_bytes(LARGE[1:])
    problem = f"its file has {len(LARGE) - 1} bytes"
    assert explain(digest_of(LARGE), *place, code=1)["problem"] == problem
    (entry,) = explain("--action", ACTION, *place, code=1)["entries"]
    assert entry["closure"]["missing"] == [str(digest_of(LARGE))]
    assert federation("verify", "--repair", "--data-dir", str(data_dir)).returncode == 1
    facts = explain(digest_of(LARGE).hash_hex, *place, code=1)
    assert (facts["here"], len(facts["quarantine"])) == (False, 1)
    assert "bytes" in facts["quarantine"][0]["reason"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give a DIGEST, a URI, NAMESPACE/KEY, or --action"),
        (["a", "--action", str(ACTION)], "give a DIGEST, a URI, NAMESPACE/KEY, or --action"),
        (["--action", "abc"], "'abc' is not HASH/SIZE or blake3/HASH/SIZE"),
        (["a", "--qualifier", "b"], "--qualifier b: not NAME=VALUE"),
    ],
)
def test_wrong_usage(tmp_path: Path, args: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["explain", *args, "--data-dir", str(tmp_path)])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert explain(ABSENT, "--data-dir", tmp_path / "none", code=3)["exit-code"] == 3


def test_what_peers_have_acknowledged_and_what_they_say_now(tmp_path: Path) -> None:
    with serve(tmp_path / "there", name="there") as there:
        peers = [
            {"name": "there", "url": f"grpc://{there.address}"},
            {"name": "gone", "url": "grpc://127.0.0.1:1"},
        ]
        with serve(tmp_path / "here", {"peers": peers}, name="here") as here:
            with Client(here.address, instance="team") as client:
                client.write(PUSHED)
                client.push_blob(URI, digest_of(PUSHED))
            place = ("--config", here.config_path)

            def acknowledged() -> dict[str, str] | None:
                facts = explain(digest_of(PUSHED), *place, code=0)
                said = {each["name"]: each["answer"] for each in facts.get("peers", ())}
                return said if said.get("there", "").startswith("acknowledged") else None

            wait_until(acknowledged, "the peer has it")
            said = acknowledged()
            assert said is not None
            assert said["gone"].startswith("not known: it needs a resync")
            facts = explain(digest_of(PUSHED), *place, code=0)
            now = {each["name"]: each["answer"] for each in facts["peers-say"]}
            assert now == {"there": "present", "gone": "silent"}
            facts = explain(URI, *place, code=0)
            (entry,) = facts["entries"]
            assert entry["instance"] == "team"
            assert facts["peers-say"][0]["same-as-here"] is True
            facts = explain(ABSENT, *place, code=1)
            assert facts["peers-say"][0]["answer"] == "absent"
