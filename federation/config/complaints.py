"""What is wrong with a value of the configuration, as a sentence that says what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation.config.types import format_size

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def allowed(detail: ErrorDetails) -> str:
    """Return which values are allowed: our sentence, or pydantic's where that is good enough."""
    context = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "value_error":
        return str(context["error"])
    if kind in _ALLOWED:
        return _ALLOWED[kind]
    if kind in _BOUND:
        word, name = _BOUND[kind]
        bound = context[name]
        # Bounds of sizes are powers of two; others, such as 1000 calls, are no round sizes.
        is_round = isinstance(bound, int) and bound and bound % 1024 == 0
        return f"must be {word} {format_size(bound) if is_round else f'{bound:g}'}"
    if kind == "literal_error":
        return f"must be {context['expected'].replace(chr(39), '')}"
    return detail["msg"].replace("should", "must")


_ALLOWED = {
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text (a number or date needs quotes)",
    "path_type": "must be a path (a number or date needs quotes)",
    "list_type": "must be a list (lines that start with -)",
    "model_type": "must be a mapping (lines of key: value)",
    "model_attributes_type": "must be a mapping (lines of key: value)",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}
_BOUND = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
