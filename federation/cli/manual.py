"""federation manual: the man page and the shells' completions, made from the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from federation.access.new_files import replace_file
from federation.cli.command import DIRECTORY, EXIT_CODES, Command, json_option
from federation.cli.output import emit

_COMPLETIONS: Final = {
    "bash": "bash-completion/completions/federation",
    "zsh": "zsh/site-functions/_federation",
    "fish": "fish/vendor_completions.d/federation.fish",
}
_VARIABLE: Final = "_FEDERATION_COMPLETE"


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  federation manual\n  federation manual --prefix /usr/local",
)
@click.option(
    "--prefix",
    type=DIRECTORY,
    default=Path("~/.local"),
    show_default=True,
    help="Where to put them: below share/ of this folder.",
)
@click.pass_context
@json_option
def manual(context: click.Context, prefix: Path, as_json: bool) -> None:
    """Install the man page, and the completion of commands for bash, zsh and fish.

    Shells and `man` find both below ~/.local and /usr/local by themselves; zsh needs
    share/zsh/site-functions in its `fpath`. Run it again after an upgrade.
    """
    root = context.find_root().command
    assert isinstance(root, click.Group)
    share = prefix.expanduser() / "share"
    written = []
    for name, text in shared_files(root).items():
        path = share / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode(), 0o644)
        written.append(str(path))
    emit({"written": written}, as_json=as_json)


def shared_files(root: click.Group) -> dict[str, str]:
    """Return the text of each file by its path below share/."""
    found = {"man/man1/federation.1": man_page(root)}
    for shell, name in _COMPLETIONS.items():
        made = get_completion_class(shell)
        assert made is not None
        found[name] = made(root, {}, "federation", _VARIABLE).source().strip() + "\n"
    return found


def man_page(root: click.Group) -> str:
    """Return the man page of a command and all below it (man 7 man)."""
    lines = ['.TH FEDERATION 1 "" "federation" "User Commands"', ".SH NAME"]
    lines += ["federation \\- a build cache that its nodes replicate to each other", ".SH SYNOPSIS"]
    lines += [".B federation", "COMMAND [OPTIONS]", ".SH DESCRIPTION", *_paragraphs(root)]
    context = click.Context(root, info_name="federation")
    lines.append(".SH COMMANDS")
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if command is not None and not command.hidden:
            lines += _command(command, click.Context(command, context, name))
    lines += [".SH EXIT STATUS", *_literal(EXIT_CODES.partition("\n")[2].partition("\n")[2])]
    lines += [".SH SEE ALSO", "docs/operations.md and docs/configuration.md of the project"]
    return "\n".join(lines) + "\n"


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {_plain(context.command_path)} {_plain(usage)}"
    yield from _paragraphs(command)
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            yield ".TP"
            yield f".B {_plain(record[0])}"
            yield _plain(record[1])
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from _command(below, click.Context(below, context, name))


def _paragraphs(command: click.Command) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", (command.help or "").strip()):
        yield ".PP"
        if "\b" in paragraph:  # click's mark for text that is not wrapped
            yield from _literal(paragraph.replace("\b", "").strip())
        else:
            yield _plain(" ".join(paragraph.split()))


def _literal(text: str) -> list[str]:
    return [".nf", *map(_plain, text.splitlines()), ".fi"]


def _plain(text: str) -> str:
    """Return text that roff shows as it is."""
    # A bare hyphen may be printed as a typographic one, which cannot be copied into a shell.
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    # roff takes these at the beginning of a line for requests.
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
