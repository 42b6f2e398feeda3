"""Faults, injected from outside into real processes on real disks.

A test carries the ID of its case. Root is needed where a test mounts a file system of its own.

    pytest tests/faults tests/e2e                     the short versions, a few minutes
    pytest -m heavy tests/faults tests/e2e            power cuts and what takes long
    python -m tests.faults.storage.kill_loop --rounds 200     kill -9 under load
    python -m tests.faults.storage.power_cut --rounds 20      power cuts under load
"""
