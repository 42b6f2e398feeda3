"""`federation pin`, `unpin` and `pins`: what they say and do beside a serving node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from federation.cli import main
from federation.cli.values import parse_date
from federation.core.digest import digest_of
from tests.support.process import Node, serve
from tests.support.process_client import Client, action_result

ACTION, URI = digest_of(b"an action"), "https://example.com/release"
SMALL, OTHER, NEVER = b"small" * 1000, b"other" * 1000, b"never pinned" * 1000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with serve(tmp_path_factory.mktemp("pin") / "data", name="here") as node:
        with Client(node.address) as client, Client(node.address, "pr") as other:
            for data in (SMALL, OTHER, NEVER):
                client.write(data)
            client.push_blob(f"{URI}/1", digest_of(SMALL))
            client.update_action_result(ACTION, action_result([("out", digest_of(OTHER))]))
            other.push_blob(f"{URI}/2", digest_of(OTHER))
        yield node


def run(node: Node, *args: object, code: int = 0) -> dict[str, Any]:
    given = [*map(str, args), "--data-dir", str(node.data_dir), "--json"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == code, done.output
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_a_pin_is_made_listed_explained_and_removed(node: Node) -> None:
    (made,) = run(node, "pin", f"{URI}/*", "--note", "4.2", "--for", "30d")["pinned"]
    assert (made["target"], made["entries"], made["blobs"], made["whole"]) == (
        f"{URI}/*",
        2,
        2,
        True,
    )
    listed = run(node, "pins")
    assert listed["pins"] == [made]
    assert listed["bytes"] == made["bytes"] < listed["max-bytes"]
    assert "no: pinned by" in run(node, "explain", digest_of(SMALL))["eviction"]
    assert run(node, "status", "--all")["pins"]["entries"] == 2
    purged = run(node, "purge", f"{URI}/2", "--yes")
    assert purged["purged"][0]["was-pinned"] is True
    assert run(node, "unpin", f"{URI}/*")["unpinned"] == [f"{URI}/*"]
    assert run(node, "pins")["pins"] == []
    assert run(node, "unpin", f"{URI}/*", code=1)["unpinned"] == []


def test_an_action_a_blob_and_an_instance_can_be_pinned_at_once(node: Node) -> None:
    made = run(node, "pin", digest_of(SMALL), "--action", ACTION)["pinned"]
    assert [(each["kind"], each["blobs"]) for each in made] == [("blob", 1), ("action", 1)]
    (whole,) = run(node, "pin", "--instance", "pr", "--until", "2999-01-01")["pinned"]
    assert (whole["kind"], whole["instance"], whole["until"][:10]) == (
        "instance",
        "pr",
        "2999-01-02",
    )
    run(node, "unpin", digest_of(SMALL), "--action", ACTION)
    run(node, "unpin", "--instance", "pr")


def test_what_is_missing_is_told_and_what_does_not_fit_refused(node: Node, tmp_path: Path) -> None:
    lacking = digest_of(b"lacking")
    (made,) = run(node, "pin", lacking, code=1)["pinned"]
    assert (made["whole"], made["missing-blobs"]) == (False, 1)
    run(node, "unpin", lacking)
    config = tmp_path / "config.yaml"
    config.write_text(f"data-dir: {node.data_dir}\nstorage: {{pins-max: 1000}}\n")
    given = ["pin", str(lacking), str(digest_of(NEVER)), "--config", str(config)]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 3
    assert "pins may take 1000 bytes" in done.stderr
    assert f"pinned before that one was refused: {lacking}\n" in done.stderr
    assert [each["target"] for each in run(node, "pins")["pins"]] == [str(lacking)]
    run(node, "unpin", lacking)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "give a DIGEST"),
        (["pin", str(ACTION), "--instance", "pr"], "blobs have no instance"),
        (["pin", ACTION.hash_hex], "give HASH/SIZE"),
        (["pin", URI, "--until", "soon"], "YYYY-MM-DD"),
        (["pin", URI, "--until", "2001-01-01"], "would have ended"),
        (["pin", URI, "--until", "9999-12-31"], "YYYY-MM-DD"),
        (["pin", URI, "--for", "4000000d"], "after the year 9999"),
        (["pin", URI, "--until", "2999-01-01", "--for", "1d"], "give one of"),
        (["pin", URI, "--note", "x" * 501], "at most 500"),
    ],
)
def test_what_cannot_be_meant_is_refused(node: Node, args: list[str], says: str) -> None:
    given = [*(args or ["pin"]), "--data-dir", str(node.data_dir)]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2, done.output
    assert says in done.output


def test_a_day_is_meant_to_its_end_and_a_moment_in_utc() -> None:
    assert parse_date("2027-06-30") == datetime(2027, 7, 1, tzinfo=UTC).timestamp()
    assert parse_date("2027-06-30T12:30") == datetime(2027, 6, 30, 12, 30, tzinfo=UTC).timestamp()
    assert parse_date("2027-06-30T12:30+02:00") == parse_date("2027-06-30T10:30")
