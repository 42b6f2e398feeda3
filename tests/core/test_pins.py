"""What a pin's target means: its name, what it matches, and what can be pinned at all."""

from __future__ import annotations

import pytest

from federation.core.digest import Digest, DigestFunction, digest_of
from federation.core.errors import InvalidRequest
from federation.core.index import NO_STAMP, EntryKey, EntryKind
from federation.core.pins import PATTERN_MAX_CHARS, Pin, PinKind, PinTarget, check_target

ACTION = digest_of(b"action")
ASSETS = PinTarget(PinKind.ASSETS, None, "urn:fdc:*/release-?")
TARGETS = [
    ASSETS,
    ASSETS._replace(instance=""),
    PinTarget(PinKind.ASSETS, "main", 'a \\ "quoted" ü pattern'),
    PinTarget(PinKind.ACTION, None, digest=ACTION),
    PinTarget(PinKind.ACTION, "main", digest=digest_of(b"action", DigestFunction.BLAKE3)),
    PinTarget(PinKind.INSTANCE, ""),
    PinTarget(PinKind.BLOB, digest=ACTION),
]


def result_of(action: Digest, instance: str = "") -> EntryKey:
    name = bytes((action.function,)) + action.hash + action.size_bytes.to_bytes(8, "big")
    return EntryKey(EntryKind.ACTION_RESULT, instance, name)


def asset(instance: str = "", kind: EntryKind = EntryKind.ASSET_BLOB) -> EntryKey:
    return EntryKey(kind, instance, b"\x01" * 32)


def test_a_name_is_read_back_and_no_two_targets_have_one() -> None:
    assert [PinTarget.parse(each.name) for each in TARGETS] == TARGETS
    assert [check_target(each) for each in TARGETS] == TARGETS
    assert len({each.name for each in TARGETS}) == len(TARGETS)


def test_a_pattern_matches_assets_of_both_kinds_and_no_action_results() -> None:
    matches = ASSETS.matcher()
    assert matches(asset(), "urn:fdc:a/b/release-1")
    assert matches(asset("main", EntryKind.ASSET_DIRECTORY), "urn:fdc:a/release-2")
    assert not matches(asset(), "urn:fdc:a/release-10")
    assert not matches(asset(), "URN:fdc:a/release-1")
    assert not matches(result_of(ACTION), "urn:fdc:a/release-1")


def test_an_instance_narrows_every_kind_down() -> None:
    in_main = ASSETS._replace(instance="main").matcher()
    assert in_main(asset("main"), "urn:fdc:a/release-1")
    assert not in_main(asset("main/x"), "urn:fdc:a/release-1")
    whole = PinTarget(PinKind.INSTANCE, "main").matcher()
    assert whole(asset("main"), "anything")
    assert whole(result_of(ACTION, "main"), "")
    assert not whole(asset(""), "anything")


def test_an_action_matches_its_results_alone() -> None:
    matches = PinTarget(PinKind.ACTION, digest=ACTION).matcher()
    assert matches(result_of(ACTION, "any"), "")
    assert not matches(result_of(digest_of(b"other")), "")
    assert not matches(result_of(ACTION._replace(size_bytes=1)), "")
    assert not matches(asset(), str(ACTION))


def test_no_entry_matches_a_blob() -> None:
    assert not PinTarget(PinKind.BLOB, digest=ACTION).matcher()(result_of(ACTION), str(ACTION))


@pytest.mark.parametrize(
    "target",
    [
        PinTarget(PinKind.ASSETS),
        PinTarget(PinKind.ASSETS, None, "x" * (PATTERN_MAX_CHARS + 1)),
        PinTarget(PinKind.ASSETS, None, "x", ACTION),
        PinTarget(PinKind.ACTION),
        PinTarget(PinKind.ACTION, None, "x", ACTION),
        PinTarget(PinKind.ACTION, digest=Digest(b"short", 1)),
        PinTarget(PinKind.INSTANCE),
        PinTarget(PinKind.BLOB),
        PinTarget(PinKind.BLOB, "main", digest=ACTION),
        PinTarget(PinKind.BLOB, digest=digest_of(b"")),
        PinTarget(PinKind.BLOB, digest=ACTION._replace(size_bytes=-1)),
    ],
)
def test_what_means_nothing_is_refused(target: PinTarget) -> None:
    with pytest.raises(InvalidRequest):
        check_target(target)


def test_a_pin_ends_at_its_date_and_one_without_never() -> None:
    pin = Pin(ASSETS, NO_STAMP, until_s=100.0)
    assert [pin.has_ended(at_s) for at_s in (99.0, 100.0, 101.0)] == [False, True, True]
    assert not pin._replace(until_s=None).has_ended(1e12)
