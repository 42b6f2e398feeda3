"""Which data directory and storage settings a command works on."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import click

from federation.cli.command import DIRECTORY, config_option
from federation.cli.progress import warnings_only
from federation.config import model
from federation.config.file import load
from federation.core.errors import ConfigError
from federation.storage.contract import Operations
from federation.storage.factory import operations_on
from federation.storage.reports import KnownPeer

P = ParamSpec("P")
R = TypeVar("R")


class Place(NamedTuple):
    """A data directory with its storage settings; file: the configuration, if one was given."""

    data_dir: Path
    storage: model.StorageConfig
    file: model.Config | None = None

    @property
    def operations(self) -> Operations:
        """What commands can do to this storage."""
        return operations_on(self.data_dir, self.storage)


def asked_by() -> str:
    """Return who runs this command, as records of purges and pins name it."""
    return f"{getpass.getuser()}, command line"


def place_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add --config and --data-dir, and have what a storage logs go to standard error.

    Standard output is for what the command says, which scripts read.
    """

    @wraps(function)
    def with_log(*args: P.args, **kwargs: P.kwargs) -> R:
        with warnings_only():
            return function(*args, **kwargs)

    for option in (
        click.option(
            "--data-dir",
            type=DIRECTORY,
            help="The data directory.  [default: federation/ in the XDG data directory]",
        ),
        config_option("Take the data directory and the storage settings from this file."),
    ):
        with_log = option(with_log)
    return with_log


def place(config_path: Path | None, data_dir: Path | None) -> Place:
    """Return what the options of place_options say; both None: the defaults.

    Raises ConfigError.
    """
    if config_path is not None and data_dir is not None:
        raise ConfigError("give either --config or --data-dir")
    if config_path is not None:
        loaded = load(config_path)
        return Place(loaded.data_dir, loaded.storage, loaded)
    defaults = model.Config()
    # Absolute, since errors and records name it.
    return Place(data_dir.absolute() if data_dir else defaults.data_dir, defaults.storage)


def check_peer(where: Place, name: str) -> KnownPeer:
    """Return what is known of a peer.

    Raises ConfigError for a name that no peer has, StorageRefused.
    """
    known = where.operations.peers()
    for peer in known:
        if peer.name == name:
            return peer
    names = ", ".join(peer.name for peer in known) or "none"
    raise ConfigError(
        f"no peer {name!r} is known in {where.data_dir}; known: {names}. A peer is known once a "
        "process has served with it in its configuration"
    )
