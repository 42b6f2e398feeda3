"""Reads YAML text into plain values with their line numbers. Knows neither files nor the model.

It is stricter than YAML: duplicate keys are errors, and so are endless self-references. `${NAME}`
stands for an environment variable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from federation.config.types import Location

_NODES_MAX = 20_000
_DEPTH_MAX = 20
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Complaint(NamedTuple):
    """One error: its line, its key, and what to do about it."""

    line: int
    location: Location
    text: str


class Parsed(NamedTuple):
    """The values of the text, and its errors as YAML."""

    value: Any
    lines: dict[Location, int]  # where each key, or item of a list, starts (from 1)
    complaints: list[Complaint]

    def line_of(self, location: Location) -> int:
        """Return the line of this key, or of the closest one above it."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def at(self, location: Location) -> Any:
        """Return the value at this location."""
        value = self.value
        for part in location:
            value = value[part]
        return value


def parse(text: str, environment: Mapping[str, str]) -> Parsed:
    """Read one YAML document. Never raises: errors are in `complaints`."""
    try:
        # Nodes and not values: they know their lines, and keep keys that are given twice.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return Parsed(None, {}, [Complaint(mark.line + 1 if mark else 1, (), _syntax(error))])
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return Parsed(None, {}, [Complaint(line, (), f"not YAML: {error.reason}")])
    except RecursionError:
        return Parsed(None, {}, [Complaint(1, (), "not usable: nested too deep")])
    reader = _Reader(environment)
    value = None if root is None else reader.read(root, ())
    return Parsed(value, reader.lines, reader.complaints)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return f'not YAML: {", ".join(parts)} (text with ": ", "[" or "{{" in it needs quotes)'


class _Reader:
    """Walks the nodes of one document, and goes on after an error, to find all of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._loader = yaml.SafeLoader("")
        self._nodes = 0
        self.lines: dict[Location, int] = {}
        self.complaints: list[Complaint] = []

    def read(self, node: yaml.Node, location: Location) -> Any:
        self._nodes += 1
        # Counted as they are read: a few anchors that name each other make billions of nodes.
        if self._nodes > _NODES_MAX or len(location) > _DEPTH_MAX:
            if self._nodes <= _NODES_MAX + 1:
                self._complain(node, location[:3], "too much, too deep, or it contains itself")
                self._nodes = _NODES_MAX + 1
            return None
        # A key's own line was set by its mapping, and is the better one.
        self.lines.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*location, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, location) if isinstance(node, yaml.ScalarNode) else None

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(key_node, location, "a key must be a plain word")
                continue
            key = str(key_node.value)
            here = (*location, key)
            if key in found:
                first = self.lines[here]
                # YAML takes the last one silently, and the operator reads the first.
                self._complain(key_node, here, f"given twice, first in line {first}")
                continue
            self.lines[here] = key_node.start_mark.line + 1
            found[key] = self.read(value_node, here)
        return found

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        text = self._expand(node, location)
        tag = node.tag
        if text != node.value and node.style is None:
            # Not in quotes: read it as if the variable's value stood in the file.
            tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        try:
            return self._loader.construct_object(yaml.ScalarNode(tag, text))
        except (yaml.constructor.ConstructorError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            self._complain(node, location, f"not a value that can stand here: {problem}")
            return None

    def _expand(self, node: yaml.Node, location: Location) -> str:
        def replaced(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name = match[1]
            if not match[0].endswith("}") or not _NAME.fullmatch(name):
                self._complain(
                    node, location, f"{match[0]!r} names no variable; write $${{ for a plain ${{"
                )
                return ""
            if name not in self._environment:
                self._complain(node, location, f"the environment variable {name} is not set")
            return self._environment.get(name, "")

        return _VARIABLE.sub(replaced, str(node.value))

    def _complain(self, node: yaml.Node, location: Location, text: str) -> None:
        self.complaints.append(Complaint(node.start_mark.line + 1, location, text))
