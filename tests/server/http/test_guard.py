"""Who may see which page: by role, by the Host header, over TLS and by Unix sockets."""

import base64
import fcntl
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from federation.access.access import KeysOutdated, KeysUnknown
from federation.access.incoming_call import IncomingCall
from federation.access.rights import Rights, Role
from federation.access.setup import load_access, make_access, make_http_access
from federation.access.tokens import RANDOM_BYTES, make_token
from federation.config.model import Config
from federation.core.clock import SystemClock
from federation.core.errors import CannotStart
from federation.observability.metrics import Metrics
from federation.server.http.asking import CannotAsk, ask
from federation.server.http.guard import PageGuard
from federation.server.http.places import OWN_MODE, UnixPlace
from federation.server.http.router import HttpAnswer, HttpRequest
from federation.server.http.server import HttpServer
from federation.server.http.serving import http_servers
from federation.server.unix_socket import listen_unix, process_socket
from tests.access.test_identity import Shown
from tests.support.certificates import Files, self_signed

PAGES = ("/", "/metrics", "/nothing")
HEALTH = ("/healthz", "/readyz")


async def page(request: HttpRequest) -> HttpAnswer:
    return HttpAnswer(200, "text/plain", request.path.encode())


def config(tmp_path: Path, **http: Any) -> Config:
    return Config.model_validate(
        {"data-dir": str(tmp_path / "data"), "http": {"address": "127.0.0.1:0", **http}},
        context={"base": tmp_path},
    )


def token(tmp_path: Path, role: Role, seed: int) -> str:
    made = make_token(role, bytes([seed]) * RANDOM_BYTES, SystemClock().wall_s())
    with (tmp_path / "tokens").open("a") as file:
        file.write(made.line + "\n")
    return made.text


@asynccontextmanager
async def serving(settings: Config) -> AsyncIterator[HttpServer]:
    clock = SystemClock()
    access = make_http_access(settings, load_access(settings).http, Metrics(), clock)
    server, _ = http_servers(settings.http, page, access, None, clock)
    assert server is not None
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get(server: HttpServer, path: str, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{server.place}{path}", headers=headers) as answer,
    ):
        return answer.status, await answer.text()


async def statuses(server: HttpServer, paths: tuple[str, ...], **headers: str) -> set[int]:
    return {(await get(server, path, **headers))[0] for path in paths}


async def test_on_loopback_everybody_sees_everything(tmp_path: Path) -> None:
    async with serving(config(tmp_path)) as server:
        assert await statuses(server, PAGES + HEALTH) == {200}


async def test_off_loopback_health_alone_is_for_all(tmp_path: Path) -> None:
    settings = config(tmp_path, address="0.0.0.0:0")
    guard = PageGuard(page, settings.http, None, SystemClock())
    answers = [await guard.answer(HttpRequest("GET", path, host="10.0.0.1")) for path in PAGES]
    assert {answer.status for answer in answers} == {403}
    assert b"http.pages: open" in answers[0].body
    for path in HEALTH:
        assert (await guard.answer(HttpRequest("GET", path, host="10.0.0.1"))).status == 200


async def test_pages_can_be_opened_and_closed_by_the_configuration(tmp_path: Path) -> None:
    opened = config(tmp_path, address="0.0.0.0:0", pages="open")
    guard = PageGuard(page, opened.http, None, SystemClock())
    assert (await guard.answer(HttpRequest("GET", "/", host="10.0.0.1"))).status == 200
    async with serving(config(tmp_path, pages="admin")) as closed:
        assert await statuses(closed, PAGES) == {403}


async def test_tokens_open_pages_to_admins_alone(tmp_path: Path) -> None:
    admin, pusher = token(tmp_path, Role.ADMIN, 1), token(tmp_path, Role.PUSH, 2)
    async with serving(config(tmp_path, auth={"tokens": "tokens"})) as server:
        assert await statuses(server, PAGES) == {401}
        assert await statuses(server, PAGES, Authorization=f"Bearer {admin}") == {200}
        assert await statuses(server, PAGES, Authorization="Bearer wrong") == {401}
        assert await statuses(server, PAGES, Authorization=f"Bearer {pusher}") == {403}
        assert await statuses(server, HEALTH) == {200}


async def test_a_browser_asks_for_the_token_as_a_password(tmp_path: Path) -> None:
    admin = token(tmp_path, Role.ADMIN, 1)
    basic = base64.b64encode(f"me:{admin}".encode()).decode()
    async with serving(config(tmp_path, auth={"tokens": "tokens"})) as server:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{server.place}/") as answer,
        ):
            assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert await get(server, "/", Authorization=f"Basic {basic}") == (200, "/")


async def test_refusals_are_logged_without_what_was_shown(tmp_path: Path) -> None:
    token(tmp_path, Role.ADMIN, 1)
    async with serving(config(tmp_path, auth={"tokens": "tokens"})) as server:
        with capture_logs() as logs:
            await get(server, "/metrics", Authorization="Bearer guessed-word")
    (line,) = [each for each in logs if each["event"] == "client_refused"]
    assert "guessed-word" not in str(line)
    assert line["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8981", 200),
        ("[::1]:8981", 200),
        ("10.0.0.7", 200),
        ("LOCALHOST.:1", 200),
        (socket.gethostname(), 200),
        ("cache.example.com:8981", 200),
        ("evil.example.com", 421),
        ("127.0.0.1.evil.example.com", 421),
        ("localhost.evil.example.com:8981", 421),
        ("", 421),
    ],
)
async def test_a_host_that_is_not_this_node_is_refused_everything_but_health(
    tmp_path: Path, host: str, status: int
) -> None:
    async with serving(config(tmp_path, hosts=["cache.example.com"])) as server:
        assert await statuses(server, PAGES, Host=host) == {status}
        assert await statuses(server, HEALTH, Host=host) == {200}


def tls_of(server: Files, me: Files | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server.certificate))
    if me is not None:
        context.load_cert_chain(me.certificate, me.key)
    return context


async def secured(server: HttpServer, path: str, tls: ssl.SSLContext) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://{server.place}{path}", ssl=tls) as answer,
    ):
        await answer.read()
        return answer.status


async def test_a_client_certificate_opens_pages_to_admins_alone(tmp_path: Path) -> None:
    own = self_signed(tmp_path)
    prometheus, other, stranger = (self_signed(tmp_path, n) for n in ("prom", "other", "stranger"))
    listed = [each.certificate.read_text() for each in (prometheus, other)]
    (tmp_path / "listed.crt").write_text("".join(listed))
    settings = config(
        tmp_path,
        tls={"server-cert": "server.crt", "server-key": "server.key", "client-certs": "listed.crt"},
        auth={"clients": [{"subject": "CN=prom", "role": "admin"}]},
    )
    async with serving(settings) as server:
        assert await secured(server, "/metrics", tls_of(own, prometheus)) == 200
        assert await secured(server, "/metrics", tls_of(own, other)) == 403
        with pytest.raises(aiohttp.ClientError):
            await secured(server, "/healthz", tls_of(own, stranger))
        with pytest.raises(aiohttp.ClientError):
            await secured(server, "/healthz", tls_of(own))
        with pytest.raises(aiohttp.ClientError):  # plain text, and the first connections are over
            await get(server, "/healthz")
        assert await secured(server, "/", tls_of(own, prometheus)) == 200


class KeysAway:
    """The issuer's keys are not here, and do not come."""

    def __init__(self) -> None:
        self.waits = 0

    async def renew(self) -> None:
        self.waits += 1

    def rights_of(self, _call: IncomingCall) -> Rights:
        if not self.waits:
            raise KeysOutdated(self.renew)
        raise KeysUnknown("their URL gives none")

    admit = rights_of


async def test_a_token_of_an_issuer_that_gives_no_keys_is_not_called_wrong(tmp_path: Path) -> None:
    token(tmp_path, Role.ADMIN, 1)
    settings = config(tmp_path, auth={"tokens": "tokens"}).http
    access = KeysAway()
    guard = PageGuard(page, settings, access, SystemClock())
    answer = await guard.answer(HttpRequest("GET", "/", host="10.0.0.1", caller=Shown("Bearer x")))
    assert (answer.status, access.waits) == (503, 1)
    assert b"their URL gives none" in answer.body


def test_tokens_off_loopback_want_tls(tmp_path: Path) -> None:
    token(tmp_path, Role.ADMIN, 1)
    with pytest.raises(ValueError, match="tokens would travel as plain text"):
        config(tmp_path, address="0.0.0.0:0", auth={"tokens": "tokens"})


async def test_a_unix_socket_is_for_its_owner_and_serves_without_a_role(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100) / "data"
    long.mkdir(parents=True)
    path = process_socket(long)
    server = HttpServer(UnixPlace(path, OWN_MODE), page)
    await server.start()
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert await ask(path, "/metrics", 60.0) == (200, "/metrics")
    finally:
        await server.stop()
    assert not path.exists()
    with pytest.raises(CannotAsk):
        await ask(path, "/", 60.0)


async def test_the_configured_socket_replaces_one_that_was_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    settings = config(tmp_path, socket="http.sock", pages="admin").http
    _, (server,) = http_servers(settings, page, None, None, SystemClock())
    await server.start()
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert await ask(path, "/", 60.0) == (200, "/")
        second = HttpServer(UnixPlace(path, OWN_MODE), page)
        with pytest.raises(CannotStart, match="Address already in use"):
            await second.start()
        await second.stop()
        assert await ask(path, "/", 60.0) == (200, "/")
    finally:
        await server.stop()


async def test_a_file_in_the_socket_s_place_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    path.write_text("precious")
    server = HttpServer(UnixPlace(path, OWN_MODE), page)
    with pytest.raises(CannotStart, match="it is a file, and no socket"):
        await server.start()
    await server.stop()
    assert path.read_text() == "precious"


async def test_sockets_of_killed_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    dead = process_socket(tmp_path)
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(dead))
    living = process_socket(tmp_path)
    assert not dead.exists()
    server = HttpServer(UnixPlace(living, OWN_MODE), page)
    await server.start()
    try:
        process_socket(tmp_path)
        assert await ask(living, "/", 60.0) == (200, "/")
    finally:
        await server.stop()


class Locked(type(Path())):  # type: ignore[misc]
    """A path that checks, between two steps of what is tested, that its folder is locked."""

    checks = 0

    def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        self._check(self.parent)
        super().chmod(mode, follow_symlinks=follow_symlinks)

    def glob(self, pattern: str, **more: Any) -> Any:
        self._check(self)
        return super().glob(pattern, **more)

    @staticmethod
    def _check(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
        Locked.checks += 1


def test_a_socket_is_not_taken_for_left_over_before_it_listens(tmp_path: Path) -> None:
    path = process_socket(Locked(tmp_path))
    listen_unix(path, OWN_MODE).close()
    assert Locked.checks == 2


def test_tokens_that_listeners_and_pages_share_are_read_and_watched_once(tmp_path: Path) -> None:
    token(tmp_path, Role.ADMIN, 1)
    auth = {"tokens": "tokens"}
    settings = Config.model_validate(
        {
            "listeners": [{"address": "127.0.0.1:0", "auth": auth}] * 2,
            "http": {"address": "127.0.0.1:0", "auth": auth},
        },
        context={"base": tmp_path},
    )
    files = load_access(settings)
    access = make_access(settings, files, Metrics(), SystemClock())
    assert len(access.all) == 3
    assert len({id(watched) for each in access.all for watched in each.watched}) == 1
    found = [each.tokens for each in (*files.listeners, files.http) if each is not None]
    assert [table is found[0] for table in found] == [True] * 3
