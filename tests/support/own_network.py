"""A test that may do to its network whatever it likes: it runs again in a namespace of its own.

    def test_something(request):
        if not in_own_network(request):
            return

Needs root or user namespaces; where neither is permitted, the test fails and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

_MARK = "FEDERATION_TEST_OWN_NETWORK"
_SET_UP = 'ip link set lo up && exec "$@"'
_LONGEST_S = 120


def in_own_network(request: pytest.FixtureRequest) -> bool:
    """Whether this is the run inside; else run the test there and fail if it does not pass."""
    if os.environ.get(_MARK):
        return True
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    test = [sys.executable, "-m", "pytest", "-x", "-m", "", "-p", "no:cacheprovider"]
    inside = subprocess.run(
        [*unshare, "sh", "-c", _SET_UP, "sh", *test, request.node.nodeid],
        env={**os.environ, _MARK: "1"},
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
        check=False,
    )
    if inside.returncode:
        pytest.fail(f"in a network of its own:\n{inside.stdout}\n{inside.stderr}", pytrace=False)
    return False


def drop_packets(port: int) -> None:
    """From now on, packets to and from a port vanish; nobody is told."""
    assert os.environ.get(_MARK), "only in a network of the test's own"
    nft = shutil.which("nft")
    assert nft, "this test needs nft (Debian's package nftables)"
    rules = f"""
        table inet test {{
            chain drops {{
                type filter hook input priority 0;
                tcp dport {port} drop
                tcp sport {port} drop
            }}
        }}
    """
    subprocess.run([nft, "-f", "-"], input=rules, text=True, check=True)
