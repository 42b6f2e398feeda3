"""Who is let in and who is believed: certificates, tokens, and what an operator is told."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from federation.core.clock import ManualClock
from federation.core.digest import digest_of
from federation.core.errors import ConfigError
from federation.remote.failures import Denied, FailureKind, RemoteFailed
from federation.remote.settings import RemoteSettings
from tests.remote.blobs import read, until
from tests.remote.fake_server import FakeServer, fails, hangs_after
from tests.remote.served import Here, connect, connected, settings_for
from tests.support.certificates import Files, self_signed

ASKED = digest_of(b"asked")


def tls(files: Files, clients: Path | None = None) -> grpc.ServerCredentials:
    roots = None if clients is None else clients.read_bytes()
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=clients is not None)


def secure(address: str) -> str:
    return f"https://{address}"


async def answers(here: Here) -> None:
    assert await here.store.find_missing([ASKED]) == {ASKED}


async def is_denied(here: Here, kind: FailureKind) -> RemoteFailed:
    with pytest.raises(RemoteFailed) as caught:
        await here.store.find_missing([ASKED])
    error = caught.value
    assert error.kind is kind, error
    assert isinstance(error, Denied)
    assert error.needs_operator
    assert not error.is_retryable
    return error


async def test_a_certificate_that_is_listed_is_believed(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    async with FakeServer(tls(files)) as fake:
        options: dict[str, Any] = {"url": secure(fake.address), "server_cert": files.certificate}
        async with connected(fake.address, **options) as here:
            await answers(here)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("expired", "certificate has expired"),
        ("host", "(its certificate has to name the host of the url)"),
        ("unknown", "(server-cert has to be its certificate, or"),
        ("system", "(server-cert has to be its certificate, or"),
    ],
)
async def test_u09_a_certificate_that_is_not_right_is_refused_and_not_retried(
    tmp_path: Path, what: str, says: str
) -> None:
    other = [x509.DNSName("elsewhere.example")]
    made = {
        "expired": lambda: self_signed(tmp_path, expired=True),
        "host": lambda: self_signed(tmp_path, hosts=other),
        "unknown": lambda: self_signed(tmp_path),
        "system": lambda: self_signed(tmp_path),
    }[what]()
    roots = {
        "unknown": self_signed(tmp_path, "another").certificate,
        "system": None,
    }.get(what, made.certificate)
    async with FakeServer(tls(made)) as fake:
        options: dict[str, Any] = {
            "url": secure(fake.address),
            "server_cert": roots,
            "retry_limit": 5,
        }
        async with connected(fake.address, **options) as here:
            async with asyncio.timeout(60):
                error = await is_denied(here, FailureKind.CERTIFICATE)
            assert says in error.reason
            assert here.remote.describe()["last_failure"]["stubborn"] is True
        assert not fake.asked


async def test_our_certificate_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    server, mine = self_signed(tmp_path), self_signed(tmp_path, "mine")
    async with FakeServer(tls(server, clients=mine.certificate)) as fake:
        options: dict[str, Any] = {
            "url": secure(fake.address),
            "server_cert": server.certificate,
            "client_cert": mine.certificate,
            "client_key": mine.key,
        }
        async with connected(fake.address, **options) as here:
            await answers(here)


@pytest.mark.parametrize("shown", ["none", "another", "expired"])
async def test_u09_a_server_that_does_not_accept_our_certificate_is_told_as_such(
    tmp_path: Path, shown: str
) -> None:
    server, mine = self_signed(tmp_path), self_signed(tmp_path, "mine", expired=shown == "expired")
    options: dict[str, Any] = {"server_cert": server.certificate}
    if shown != "none":
        given = self_signed(tmp_path, "another") if shown == "another" else mine
        options |= {"client_cert": given.certificate, "client_key": given.key}
    fake = FakeServer(tls(server, clients=mine.certificate))
    async with fake, connected(fake.address, url=f"https://{fake.address}", **options) as here:
        with pytest.raises(RemoteFailed, match="client-cert") as caught:
            await here.store.find_missing([ASKED])
        assert caught.value.kind is FailureKind.UNAVAILABLE  # gRPC servers do not say why


async def test_plain_text_to_a_tls_server_is_no_answer(tmp_path: Path) -> None:
    async with FakeServer(tls(self_signed(tmp_path))) as fake:
        async with connected(fake.address) as here:
            with pytest.raises(RemoteFailed):
                await here.store.find_missing([ASKED])
        assert not fake.asked


def token_file(folder: Path, text: str) -> Path:
    file = folder / "token"
    fresh = folder / "token.new"
    fresh.write_text(text)
    fresh.rename(file)
    return file


async def test_a_token_goes_with_every_call_and_is_read_again(tmp_path: Path) -> None:
    files, clock = self_signed(tmp_path), ManualClock()
    token = token_file(tmp_path, "first-token\n")
    async with FakeServer(tls(files)) as fake:
        options = {
            "url": secure(fake.address),
            "server_cert": files.certificate,
            "access_token": token,
        }
        async with connected(fake.address, clock, **options) as here:
            await answers(here)
            token_file(tmp_path, "second-token")
            clock.advance(6)
            await answers(here)
            token_file(tmp_path, "two words")  # cannot be used: the one before stays
            clock.advance(6)
            await answers(here)
            token.unlink()
            clock.advance(6)
            await answers(here)
            assert "token" not in repr(here.remote).lower()
            assert "first-token" not in str(here.remote.describe())
    sent = [call.metadata["authorization"] for call in fake.calls("FindMissingBlobs")]
    assert sent == ["Bearer first-token", *["Bearer second-token"] * 3]


async def test_u09_a_token_that_is_not_accepted_is_read_again_at_once(tmp_path: Path) -> None:
    files = self_signed(tmp_path)
    token = token_file(tmp_path, "old")
    async with FakeServer(tls(files)) as fake:
        options = {
            "url": secure(fake.address),
            "server_cert": files.certificate,
            "access_token": token,
        }
        async with connected(fake.address, ManualClock(), **options) as here:
            fake.does["FindMissingBlobs"] = fails(grpc.StatusCode.UNAUTHENTICATED, "who?")
            await is_denied(here, FailureKind.DENIED)
            del fake.does["FindMissingBlobs"]
            token_file(tmp_path, "new")
            await answers(here)
    assert fake.calls("FindMissingBlobs")[-1].metadata["authorization"] == "Bearer new"


@pytest.mark.parametrize("text", ["", "two words", "ümlaut", "a" * 9000, "line\nbreak"])
async def test_a_token_that_cannot_be_sent_is_named_without_being_shown(
    tmp_path: Path, text: str
) -> None:
    files = self_signed(tmp_path)
    token = token_file(tmp_path, text)
    options: dict[str, Any] = {"server_cert": files.certificate, "access_token": token}
    async with connected("127.0.0.1:1", url="https://127.0.0.1:1", **options) as here:
        error = await is_denied(here, FailureKind.DENIED)
    assert str(token) in str(error)
    assert not text or text not in str(error)


@pytest.mark.parametrize("missing", ["server_cert", "client_cert", "access_token"])
async def test_a_file_that_cannot_be_read_is_named_and_found_later(
    tmp_path: Path, missing: str
) -> None:
    server, mine = self_signed(tmp_path), self_signed(tmp_path, "mine")
    token = token_file(tmp_path, "token")
    async with FakeServer(tls(server)) as fake:
        options: dict[str, Any] = {
            "url": secure(fake.address),
            "server_cert": server.certificate,
            "client_cert": mine.certificate,
            "client_key": mine.key,
            "access_token": token,
        }
        file = options[missing]
        assert isinstance(file, Path)
        aside = shutil.move(file, tmp_path / "aside")
        async with connected(fake.address, **options) as here:
            with pytest.raises(Denied) as caught:
                await here.store.find_missing([ASKED])
            assert str(file) in str(caught.value)
            shutil.move(aside, file)
            await answers(here)


async def test_certificates_are_read_again_and_calls_that_run_go_on(tmp_path: Path) -> None:
    old, new, clock = self_signed(tmp_path, "old"), self_signed(tmp_path, "new"), ManualClock()
    trusted = tmp_path / "trusted.crt"
    shutil.copy(old.certificate, trusted)
    async with FakeServer(tls(old)) as first, FakeServer(tls(new)) as second:
        options = {"url": secure(first.address), "server_cert": trusted}
        async with connected(first.address, clock, **options) as here:
            await answers(here)
            trusted.write_bytes(b"-----BEGIN CERTIFICATE-----\nhalf wri")
            clock.advance(6)
            await answers(here)
            connection = here.remote._connection
            os.replace(new.certificate, trusted)  # noqa: PTH105
            clock.advance(6)
            here.remote._target = here.remote._target._replace(authority=second.address)
            await answers(here)
            assert here.remote._connection is not connection
    assert second.calls("FindMissingBlobs")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "ftp://there:1"}, "grpcs"),
        ({"url": "there:1"}, "grpcs"),
        ({"url": "grpc://"}, "host:port"),
        ({"url": "grpc://there:99999"}, "host:port"),
        ({"url": "https://user:secret@there:1"}, "host:port"),
        ({"url": "https://there:1/main"}, "instance-name: main"),
        ({"url": "http://there:1", "access_token": Path("token")}, "TLS"),
        ({"url": "grpc://there:1", "server_cert": Path("cert")}, "grpcs"),
        ({"url": "https://there:1", "client_cert": Path("cert")}, "go together"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(
    changes: dict[str, object], said: str
) -> None:
    settings = settings_for("there:1", **changes)
    with pytest.raises(ConfigError, match=said) as caught:
        settings.target()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "authority", "is_tls"),
    [
        ("http://there", "there:80", False),
        ("https://there", "there:443", True),
        ("grpc://127.0.0.1:8980/", "127.0.0.1:8980", False),
        ("grpcs://[::1]:8980", "[::1]:8980", True),
    ],
)
def test_urls_name_a_host_and_a_port(url: str, authority: str, is_tls: bool) -> None:
    assert RemoteSettings(name="there", url=url).target() == (authority, is_tls)


async def test_the_old_connection_ends_with_its_calls(tmp_path: Path) -> None:
    files, clock = self_signed(tmp_path), ManualClock()
    other = self_signed(tmp_path, "other")
    async with FakeServer(tls(files)) as fake:
        options = {"url": secure(fake.address), "server_cert": files.certificate}
        async with connected(fake.address, clock, **options) as here:
            await answers(here)
            old = here.remote._connection
            assert old is not None
            both = files.certificate.read_bytes() + other.certificate.read_bytes()
            files.certificate.write_bytes(both)
            clock.advance(6)
            await answers(here)
            await until(lambda: old.state == "shutdown", "the old connection is closed")


async def test_closing_ends_the_old_connections_too(tmp_path: Path) -> None:
    files, clock = self_signed(tmp_path), ManualClock()
    other = self_signed(tmp_path, "other")
    async with FakeServer(tls(files)) as fake:
        digest = fake.holds(b"content")
        fake.streams = hangs_after(3)
        options = {"url": secure(fake.address), "server_cert": files.certificate}
        here = connect(settings_for(fake.address, **options), clock)
        reading = asyncio.ensure_future(read(here.store, digest))
        await until(lambda: fake.calls("Read"), "the call runs")
        old = here.remote._connection
        assert old is not None
        both = files.certificate.read_bytes() + other.certificate.read_bytes()
        files.certificate.write_bytes(both)
        clock.advance(6)
        await answers(here)
        assert old.state != "shutdown"
        assert not reading.done()
        async with asyncio.timeout(60):
            await here.remote.close()
            with pytest.raises(RemoteFailed):
                await reading
        assert old.state == "shutdown"
