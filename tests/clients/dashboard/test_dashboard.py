"""The dashboard in a real browser: headless Chromium of Debian."""

import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import federation
from tests.support.process import Node, serve

pytestmark = pytest.mark.clients

SETTINGS = {
    "node-name": "paris",
    "upstreams": [{"name": "hq", "url": "grpc://127.0.0.1:1"}],
    "peers": [{"name": "<b>tokyo", "url": "grpc://127.0.0.1:2"}],
}
PNG = b"\x89PNG\r\n"
SCRIPT = Path(federation.__file__).parent / "server/dashboard/files/dashboard.js"
LOAD = '<link rel="icon" href="data:,"><script src="/dashboard.js"></script>'


def browser(tmp_path: Path, *args: str) -> str:
    """Run Chromium once; return what it printed, and fail on any error of the page."""
    program = shutil.which("chromium")
    assert program is not None, "tests/clients/install installs chromium"
    done = subprocess.run(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            *args,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert told == [], "the page's policy refused something, or its script failed"
    return done.stdout


def shown(node: Node, tmp_path: Path, path: str = "/") -> str:
    return browser(
        tmp_path, "--virtual-time-budget=1000", "--dump-dom", f"http://{node.http}{path}"
    )


def test_the_page_is_drawn_without_an_error_and_text_stays_text(tmp_path: Path) -> None:
    with serve(tmp_path / "data", SETTINGS) as node:
        page = shown(node, tmp_path)
        assert "<title>paris</title>" in page
        assert page.count("<svg") == 4
        assert "&lt;b&gt;tokyo" in page
        assert "<b>tokyo" not in page


class Counting(BaseHTTPRequestHandler):
    """Serves the dashboard's script with a page that has another number each time."""

    asked = 0

    def do_GET(self) -> None:
        if self.path == "/dashboard.js":
            body, kind = SCRIPT.read_bytes(), "text/javascript"
        else:
            Counting.asked += 1
            live = f'<div id="live" data-live>answer {Counting.asked}</div>'
            body = f'<!doctype html><span id="lost" hidden></span>{live}{LOAD}'.encode()
            kind = "text/html"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


def test_the_script_exchanges_what_is_live(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/"
            page = browser(tmp_path, "--virtual-time-budget=12000", "--dump-dom", address)
        finally:
            server.shutdown()
            thread.join()
    found = re.search(r'data-live="">answer (\d+)<', page)
    assert found is not None, page
    assert int(found[1]) >= 2


def test_an_object_is_explained(tmp_path: Path) -> None:
    with serve(tmp_path / "data", SETTINGS) as node:
        page = shown(node, tmp_path, f"/?explain={'a' * 64}/5")
        assert '"here": false' in page


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_can_be_drawn_at_any_width(tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    with serve(tmp_path / "data", SETTINGS) as node:
        size = f"--window-size={width},1600"
        browser(tmp_path, size, f"--screenshot={picture}", f"http://{node.http}/")
    assert picture.read_bytes().startswith(PNG)
