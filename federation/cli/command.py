"""What all commands have in common: exit codes, errors without tracebacks, --json, paths."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from federation.cli.output import emit_json
from federation.core.errors import ConfigError, FederationError
from federation.server.exit_codes import BAD_USAGE, CANNOT_RUN, INTERRUPTED

EXIT_CODES = """\b
Exit codes:
  0    done, and nothing is wrong
  1    done, and problems were found (the output says which)
  2    wrong usage or invalid configuration; nothing was changed
  3    cannot run: port in use, data directory refused, disk error
  130  interrupted; 128 + N after a second signal N
"""

FILE = click.Path(path_type=Path, dir_okay=False)
DIRECTORY = click.Path(path_type=Path, file_okay=False)

F = TypeVar("F", bound=Callable[..., Any] | click.Command)


class Command(click.Command):
    """A command whose errors are one line on standard error and an exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        epilog = kwargs.pop("epilog", None)
        kwargs["epilog"] = f"{epilog.rstrip()}\n\n{EXIT_CODES}" if epilog else EXIT_CODES
        kwargs.setdefault("context_settings", {"max_content_width": 100})
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """See click.Command."""
        try:
            return super().invoke(ctx)
        # click shows these itself; it must not look like a failure of the command.
        except (click.ClickException, click.exceptions.Exit):
            raise
        except ConfigError as error:
            _fail(ctx, error, BAD_USAGE)
        except FederationError as error:
            _fail(ctx, error, CANNOT_RUN)
        except OSError as error:
            _fail(ctx, _explained(error), CANNOT_RUN)
        except KeyboardInterrupt:
            _fail(ctx, "interrupted", INTERRUPTED)
        except Exception as error:
            # A bug: only whoever reports it needs the trace.
            if os.environ.get("FEDERATION_TRACEBACK"):
                raise
            hint = "FEDERATION_TRACEBACK=1 shows where"
            _fail(ctx, f"unexpected {type(error).__name__}: {error} ({hint})", CANNOT_RUN)


def json_option(function: F) -> F:
    """Add --json to a command; its value arrives as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON on standard output, for scripts."
    )(function)


def config_option(help_text: str) -> Callable[[F], F]:
    """Return a decorator that adds --config FILE to a command; it arrives as `config_path`."""
    return click.option("--config", "config_path", type=FILE, help=help_text)


def _fail(ctx: click.Context, error: Exception | str, code: int) -> NoReturn:
    if ctx.params.get("as_json"):
        facts: dict[str, Any] = {"error": str(error), "exit-code": code}
        if isinstance(error, ConfigError):
            # Imported here, as --help does not need the configuration.
            from federation.config.file import ConfigFileError  # noqa: PLC0415

            if isinstance(error, ConfigFileError):
                facts["problems"] = [problem._asdict() for problem in error.problems]
        # Both: a script reads the JSON, and its log shows the line.
        emit_json(facts)
    click.echo(f"{ctx.find_root().info_name}: {error}", err=True)
    sys.exit(code)


def _explained(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
