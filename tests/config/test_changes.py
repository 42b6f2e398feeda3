"""What a running process can take of a new configuration."""

from __future__ import annotations

from typing import Any

import pytest

from federation.config.keys import ConfigKey, walk
from federation.config.limits import LiveLimits
from federation.config.model import Config, LimitsConfig
from federation.config.reload import changes, is_live
from federation.core.errors import ConfigError

RUNNING = Config.model_validate({"node-name": "paris", "data-dir": "/srv"})


def wanted(**keys: Any) -> Config:
    raw = {"node-name": "paris", "data-dir": "/srv", **keys}
    return Config.model_validate({key.replace("_", "-"): value for key, value in raw.items()})


def test_the_same_is_no_change() -> None:
    found = changes(RUNNING, wanted())
    assert (found.config, found.now, found.restart) == (RUNNING, [], [])


def test_what_is_live_is_taken_and_the_rest_is_named() -> None:
    found = changes(
        RUNNING,
        wanted(storage={"quota": "1G", "lease": "2h"}, http={"address": None}, offline=True),
    )
    assert found.now == ["storage.quota", "offline"]
    assert found.restart == ["storage.lease", "http.address"]
    assert found.config.storage.quota == 2**30
    assert found.config.storage.lease == RUNNING.storage.lease
    assert found.config.http == RUNNING.http
    assert found.config.offline


def test_upstreams_are_one_key() -> None:
    upstreams = [{"name": "hq", "url": "grpc://hq:1"}]
    found = changes(RUNNING, wanted(upstreams=upstreams))
    assert found.now == ["upstreams"]
    assert [each.name for each in found.config.upstreams] == ["hq"]
    assert changes(found.config, wanted(upstreams=upstreams)).now == []


def test_listeners_need_a_restart_as_a_whole() -> None:
    found = changes(RUNNING, wanted(listeners=[{"address": "127.0.0.1:1"}]))
    assert (found.now, found.restart) == ([], ["listeners"])
    assert found.config == RUNNING


def test_what_would_only_go_together_with_a_restart_is_refused() -> None:
    small = wanted(storage={"max-blob": "1K", "inline-max": "1K"})
    with pytest.raises(ConfigError, match=r"needs a restart \(storage\.max-blob\)"):
        changes(small, wanted(storage={"max-blob": "1M", "inline-max": "16K"}))


def test_every_key_says_whether_a_reload_takes_it() -> None:
    """What is in a list says nothing, as the list does, or a section that is taken as a whole.

    Other sections leave it to their keys.
    """
    decided = [key.path for key in walk() if key.section is not None and key.live is not None]

    def is_below_a_decision(key: ConfigKey) -> bool:
        return any(key.path != path and key.path[: len(path)] == path for path in decided)

    for key in walk():
        is_left_to_keys = key.section is not None and key.path not in decided
        leaves_it_to_others = is_below_a_decision(key) or is_left_to_keys
        assert (key.live is None) == leaves_it_to_others, f"{key.dotted} says {key.live}"


def test_live_is_what_is_below_too() -> None:
    assert is_live("storage.scrub.rate")
    assert is_live("upstreams.auth.client-key")
    assert not is_live("storage")
    assert not is_live("storage.scrubbing")


def test_limits_are_taken_in_place() -> None:
    live = LiveLimits.of(LimitsConfig())
    held: LimitsConfig = live
    live.apply_config(LimitsConfig(stall=7.0))
    assert held.stall == 7.0


def test_a_mapping_of_names_is_one_key_whatever_names_it_has() -> None:
    running = wanted(storage={"expire-after": {"pr": "30d", "old": "1d"}})
    found = changes(running, wanted(storage={"expire-after": {"pr": "10d", "new": "5d"}}))
    assert found.now == ["storage.expire-after"]
    assert found.config.storage.expire_after == {"pr": 864_000.0, "new": 432_000.0}
    assert changes(found.config, RUNNING).config.storage.expire_after == {}


def test_entries_do_not_expire_within_their_lease() -> None:
    with pytest.raises(ValueError, match="within their lease"):
        wanted(storage={"expire-after": {"pr": "1h"}})
