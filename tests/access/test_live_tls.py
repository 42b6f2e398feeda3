"""Changed files are taken when they are whole and good; until then everything stays as it was."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
from structlog.testing import capture_logs

from federation.access.allowlist import fingerprint_of
from federation.access.live_tls import LiveTls
from federation.access.tls import load_pair
from federation.config.model import TlsConfig
from federation.core.clock import ManualClock
from tests.support.certificates import self_signed


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = self_signed(folder)
        self.list = folder / "authorized.crt"
        self.one = self_signed(folder, "one").certificate.read_bytes()
        self.two = self_signed(folder, "two").certificate.read_bytes()
        self.list.write_bytes(self.one + self.two)
        self.tls = TlsConfig(
            server_cert=self.server.certificate,
            server_key=self.server.key,
            client_certs=self.list,
        )
        pair = load_pair(self.tls, "here")
        assert pair.clients is not None
        self.fingerprints = list(pair.clients.by_fingerprint)
        first = pair.clients.by_fingerprint[self.fingerprints[0]]
        self.until_s = first.until_s
        self.clock = ManualClock(wall_s=first.since_s + 10)
        self.live = LiveTls(self.tls, "here", pair, self.clock)
        self.look()
        self.look()

    def look(self, *, asked: bool = False) -> list[str]:
        with capture_logs() as logs:
            self.live.refresh(asked=asked)
        return [line["event"] for line in logs]

    def replace(self, path: Path, data: bytes) -> None:
        fresh = self.folder / "fresh"
        fresh.write_bytes(data)
        fresh.replace(path)

    def listed(self) -> list[bool]:
        clients = self.live.pair.clients
        assert clients is not None
        return [name in clients.by_fingerprint for name in self.fingerprints]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    before = structlog.get_config()  # a command that ran in this process may have set its level
    structlog.reset_defaults()
    yield Bench(tmp_path)
    structlog.configure(**before)


def test_files_that_stay_as_they_are_are_not_read_again(bench: Bench) -> None:
    before = bench.live.pair
    assert bench.look() == bench.look(asked=True) == []
    assert bench.live.pair is before


def test_a09_a_change_is_taken_at_the_second_look_that_sees_it(bench: Bench) -> None:
    bench.replace(bench.list, bench.two)
    assert bench.look() == []
    assert bench.listed() == [True, True]
    assert bench.look() == ["tls_files_taken"]
    assert bench.listed() == [False, True]


def test_a21_what_is_asked_for_is_taken_once_it_rests(bench: Bench) -> None:
    """A list that is just being written must not shut out those at its end."""
    bench.list.write_bytes(bench.two)
    assert bench.look(asked=True) == []
    bench.list.write_bytes(bench.two + bench.one)
    assert bench.look(asked=True) == []
    assert bench.listed() == [True, True]
    assert bench.look() == ["tls_files_taken"]
    assert bench.look() == bench.look() == []
    assert bench.listed() == [True, True]


def test_certificates_of_one_subject_are_told_once(bench: Bench) -> None:
    alike = [self_signed(bench.folder, f"alike{n}", cn="ci") for n in range(2)]
    bench.replace(bench.list, b"".join(files.certificate.read_bytes() for files in alike))
    assert bench.look() == []
    assert sorted(bench.look()) == ["listed_clients_alike", "tls_files_taken"]
    assert bench.look() == []


def test_a07_a21_a_bad_list_leaves_the_old_one_whole_and_is_told_once(bench: Bench) -> None:
    for bad in (b"", bench.one + bench.two[:-40], b"-----BEGIN PRIVATE KEY-----\n"):
        bench.replace(bench.list, bad)
        assert bench.look() == []
        assert bench.look() == ["tls_files_refused"]
        assert bench.look() == []
        assert bench.listed() == [True, True]
    bench.list.unlink()
    assert bench.look() + bench.look() + bench.look() == ["tls_files_refused"]
    assert bench.listed() == [True, True]
    bench.replace(bench.list, bench.one)
    assert bench.look() + bench.look() == ["tls_files_taken"]
    assert bench.listed() == [True, False]


def test_a21_a_file_that_grows_is_not_read_before_it_rests(bench: Bench) -> None:
    bench.list.write_bytes(bench.two)
    assert bench.look() == []
    bench.list.write_bytes(bench.two + bench.one)
    assert bench.look() == []
    assert bench.look() == ["tls_files_taken"]
    assert bench.listed() == [True, True]


def test_a11_a_pair_that_does_not_belong_together_keeps_the_old_one(bench: Bench) -> None:
    before = bench.live.pair
    other = self_signed(bench.folder, "other")
    bench.replace(bench.server.certificate, other.certificate.read_bytes())
    assert bench.look() + bench.look() == ["tls_files_refused"]
    assert bench.live.pair is before
    bench.replace(bench.server.key, other.key.read_bytes())
    assert bench.look() + bench.look() == ["tls_files_taken"]
    assert bench.live.pair.certificate == other.certificate.read_bytes()


def test_a05_the_end_of_a_listed_certificate_is_told_when_it_comes(bench: Bench) -> None:
    bench.clock.step_wall(bench.until_s + 1 - bench.clock.wall_s())
    with capture_logs() as logs:
        bench.live.refresh(asked=False)
    kept_out = [line for line in logs if line["event"] == "listed_client_kept_out"]
    assert {line["fingerprint"] for line in kept_out} == set(bench.fingerprints)
    assert {line["subject"] for line in kept_out} == {"CN=one", "CN=two"}
    assert all("expired on 20" in line["reason"] for line in kept_out)
    assert bench.look() == []


def test_a_list_full_of_old_certificates_takes_few_lines(bench: Bench) -> None:
    many = [self_signed(bench.folder, f"old{n}", expired=True) for n in range(25)]
    bench.replace(bench.list, b"".join(files.certificate.read_bytes() for files in many))
    events = bench.look() + bench.look()
    assert events.count("listed_client_kept_out") == 20
    assert events[-1] == "more_listed_clients_kept_out"


def test_a_fingerprint_reads_as_openssl_prints_it() -> None:
    assert fingerprint_of(b"")[:11] == "E3:B0:C4:42"


def test_an_unreadable_file_is_a_change_too(bench: Bench) -> None:
    if os.geteuid() == 0:
        bench.list.unlink()
        bench.list.mkdir()
    else:
        bench.list.chmod(0)
    assert bench.look() + bench.look() == ["tls_files_refused"]
    assert bench.listed() == [True, True]


def test_a_surprise_of_a_parser_is_a_bad_file_and_watching_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise RecursionError("too deep")

    with monkeypatch.context() as patched:
        patched.setattr("federation.access.live_tls.load_pair", fail)
        bench.replace(bench.list, bench.one)
        assert bench.look() + bench.look() + bench.look() == ["tls_files_refused"]
        assert bench.listed() == [True, True]
    bench.replace(bench.list, bench.two)
    assert bench.look() + bench.look() == ["tls_files_taken"]
    assert bench.listed() == [False, True]
