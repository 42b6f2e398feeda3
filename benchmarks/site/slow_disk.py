"""A database's disk that takes longer to sync: a library that lets each fdatasync wait before it.

PostgreSQL flushes its log by fdatasync. Disks of a network, or of a machine with an honest cache,
take some milliseconds for it, and that of the machine which measures perhaps 0.2.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.process import ServerFailedError

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

int fdatasync(int file)
{
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    struct timespec wait = {0, %d};
    nanosleep(&wait, NULL);
    return sync(file);
}
"""


@contextmanager
def slow_syncs(folder: Path, wait_ms: int) -> Iterator[None]:
    """Have programs that are started within the context wait so long before each fdatasync.

    Raises ServerFailedError: there is no C compiler.
    """
    library, source = folder / "slow_syncs.so", folder / "slow_syncs.c"
    source.write_text(_SOURCE % (wait_ms * 10**6))
    command: list[str | Path] = ["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerFailedError(f"no slow disk without a C compiler: {error}") from error
    library.chmod(0o755)  # the database runs as another user
    os.environ["LD_PRELOAD"] = str(library)
    try:
        yield
    finally:
        del os.environ["LD_PRELOAD"]
