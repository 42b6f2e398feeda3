"""The example of two tiers, run as it is but for addresses and paths."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import jwt
import pytest

from federation.core.digest import digest_of
from tests.access.test_jwt import RSA, jwk, jwks, now_s
from tests.http_cache.http_client import HttpClient
from tests.support.certificates import Files, self_signed
from tests.support.process import Node
from tests.support.process_client import Client, action_result, outcome

EXAMPLE = Path(__file__).parents[2] / "docs/examples/two-tier.yaml"
ISSUER = "https://token.actions.githubusercontent.com"
URI = "https://example.com/artifact"
ACTION, OTHER = digest_of(b"an action"), digest_of(b"another action")
DENIED = grpc.StatusCode.PERMISSION_DENIED


@contextmanager
def issuer() -> Iterator[str]:
    """Publish the issuer's keys on this machine; yield the URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = jwks(jwk(RSA, kid="1"))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def token_for(subject: str) -> str:
    claims = {"sub": f"repo:example/app:{subject}", "aud": "cache.example.com", "iss": ISSUER}
    return jwt.encode({**claims, "exp": now_s() + 600}, RSA, "RS256", {"kid": "1"})


class Job:
    """What one job of the CI service can do at the node."""

    def __init__(self, node: Node, files: Files, subject: str, stack: ExitStack) -> None:
        token = token_for(subject)
        self._node, self._stack = node, stack
        trusted = grpc.ssl_channel_credentials(files.certificate.read_bytes())
        shown = grpc.access_token_call_credentials(token)
        self._credentials = grpc.composite_channel_credentials(trusted, shown)
        context = ssl.create_default_context(cafile=str(files.certificate))
        self.http = HttpClient(node.addresses[1], {"Authorization": f"Bearer {token}"}, context)

    def grpc(self, instance: str) -> Client:
        client = Client(self._node.address, instance, credentials=self._credentials)
        return self._stack.enter_context(client)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[tuple[Job, Job]]:
    """A job of main, and one of a pull request."""
    files = self_signed(tmp_path)
    with issuer() as url, ExitStack() as stack:
        text = EXAMPLE.read_text()
        for there, here in {
            "/var/lib/federation": tmp_path / "data",
            "/etc/federation": tmp_path,
            f"{ISSUER}/.well-known/jwks": url,
            "0.0.0.0:11002": "127.0.0.1:0",
            "0.0.0.0:11003": "127.0.0.1:0",
            "quota: 500G": "quota: 500M",
        }.items():
            assert there in text
            text = text.replace(there, str(here))
        path = tmp_path / "two-tier.yaml"
        more = "http: {address: '127.0.0.1:0'}\nnamespaces: [{match: kv/once, write-once: true}]\n"
        path.write_text(text + more)
        node = stack.enter_context(
            Node(tmp_path / "data", args=["--config", str(path)], name="ci").start()
        )
        yield (
            Job(node, files, "ref:refs/heads/main", stack),
            Job(node, files, "pull_request", stack),
        )


def test_a_pull_request_reads_mains_cache_and_writes_its_own(jobs: tuple[Job, Job]) -> None:
    main, pull_request = jobs
    ours, theirs = (action_result([("o", digest_of(each))]) for each in (b"ours", b"theirs"))
    in_main, in_pr = main.grpc("main"), pull_request.grpc("pr/7")
    in_main.write(b"ours")
    in_main.update_action_result(ACTION, ours)
    in_main.push_blob(URI, digest_of(b"ours"))
    main.http.put("/main/kv/app/key", b"ours")

    assert in_pr.get_action_result(ACTION) == ours
    assert in_pr.fetch_blob(URI) == digest_of(b"ours")
    assert in_pr.read(digest_of(b"ours")) == b"ours"
    assert in_pr.find_missing([digest_of(b"ours")]) == set()
    assert pull_request.http.get("/pr/7/kv/app/key") == b"ours"
    assert pull_request.http.get(f"/pr/7/ac/{ACTION.hash_hex}") == ours.SerializeToString()

    in_pr.write(b"theirs")
    for action in (ACTION, OTHER):
        in_pr.update_action_result(action, theirs)
    pull_request.http.put("/pr/7/kv/app/key", b"theirs")
    assert in_pr.get_action_result(ACTION) == theirs
    assert pull_request.http.get("/pr/7/kv/app/key") == b"theirs"

    for job, path, value in ((main, "/main", b"ours"), (pull_request, "/pr/7", b"theirs")):
        job.http.put(f"{path}/kv/once/key", value)
        assert job.http.get(f"{path}/kv/once/key") == b"ours"  # what is read is the first value

    in_other_pr = pull_request.grpc("pr/8")
    assert in_other_pr.get_action_result(ACTION) == ours
    assert in_other_pr.get_action_result(OTHER) is None
    assert in_main.get_action_result(ACTION) == ours
    assert in_main.get_action_result(OTHER) is None
    assert main.http.get("/main/kv/app/key") == b"ours"

    denied = pull_request.grpc("main")
    assert outcome(lambda: denied.update_action_result(ACTION, theirs)) is DENIED
    assert outcome(lambda: denied.get_action_result(ACTION)) is DENIED
    assert pull_request.http.ask("PUT", "/main/kv/app/key", b"theirs").status == 403
    assert outcome(lambda: main.grpc("pr/7").get_action_result(ACTION)) is DENIED
