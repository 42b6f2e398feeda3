"""What the start of a node imports: each module costs CPU at every start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.support.process import configuration, environment

_USED_LATER = {
    "aiohttp",  # by the first HTTP connection
    "cryptography",  # by listeners with TLS or authentication
    "federation.observability.tracing",  # by a collector of traces
    "federation.remote.client",  # by upstreams and peers
    "federation.replication.worker",  # by peers
    "federation.storage.reports",  # by commands
    "grpc_reflection.v1alpha",  # by the first call of it
    "jwt",  # by listeners with authentication
    "prometheus_client",  # by the first scrape
    "rich",  # by commands that show tables
    "tenacity",  # by upstreams and peers
    "yaml",  # by a configuration file
}
_SERVE_AND_TELL = """
    import json, sys
    from federation.cli import main
    try:
        main(prog_name="federation")
    except SystemExit as end:
        assert not end.code, end.code
    print(json.dumps(sorted(name for name, module in sys.modules.items() if module)))
"""


def test_a_node_without_a_file_imports_only_what_it_uses(tmp_path: Path) -> None:
    args = ["--data-dir", str(tmp_path / "data"), "--address", "127.0.0.1:0", "--http"]
    modules = _modules_of_a_node(_SERVE_AND_TELL, [*args, "127.0.0.1:0"], lambda: None)
    assert "grpc" in modules
    assert _USED_LATER & set(modules) == set()


def test_what_nodes_of_tests_need_is_imported_before_they_are_forked(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "data", tmp_path / "node.yaml"
    others = [{"name": "other", "url": "http://127.0.0.1:1"}]
    settings = configuration(data_dir, {"upstreams": others, "peers": others})
    file.write_text(yaml.safe_dump(settings))
    script = f"""
    from tests.support.warm import preload
    preload("serve")
    import sys
    before = set(sys.modules)
    {_SERVE_AND_TELL}
    print(json.dumps(sorted(set(sys.modules) - before)))
    """

    def ask() -> None:
        (published,) = data_dir.glob("run/*.json")
        http = json.loads(published.read_bytes())["http"]
        urllib.request.urlopen(f"http://{http}/readyz", timeout=60).close()

    added = _modules_of_a_node(script, ["--config", str(file)], ask)
    assert [name for name in added if name.startswith("federation")] == []


def _modules_of_a_node(
    script: str, args: list[str], while_it_serves: Callable[[], None]
) -> list[str]:
    """Run a script that serves until SIGTERM and then prints modules as JSON; return these."""
    command = [sys.executable, "-c", textwrap.dedent(script), "serve", *args]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment(), cwd=Path(__file__).parents[2]
    )
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "--remote_cache" in line:  # the last of the hints: every port answers
                    while_it_serves()
                    process.send_signal(signal.SIGTERM)
                    break
            rest = process.stdout.read().splitlines()
        finally:
            process.kill()
    names: list[str] = json.loads(rest[-1])
    return names
