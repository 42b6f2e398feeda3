"""Has the kernel end a program if the process that started it dies, so that nothing is left."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

_SETPRIV = shutil.which("setpriv") or "setpriv"


def guarded(command: Sequence[str | Path]) -> list[str | Path]:
    """Return a command that runs this one, which is killed if this process dies.

    The kernel watches the thread that starts it, which may end earlier: a program that another
    thread than the main one starts is not guarded. A later change of the user ends the guard.
    """
    if threading.current_thread() is not threading.main_thread():
        return [*command]
    return [_SETPRIV, "--pdeathsig", "KILL", "--", *command]
