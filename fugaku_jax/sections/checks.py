"""Refuses what a field of the configuration cannot be, with the field's path in the sentence."""

from typing import get_args, get_type_hints

from fugaku_jax.errors import InputError


def require(condition: bool, path: str, value: object, allowed: str) -> None:
    """Refuse a value that is not allowed.

    Args:
        condition: whether it is.
        path: of the field.
        value: what it is.
        allowed: what it must be, in words.

    Raises:
        InputError: names all three.
    """
    if not condition:
        raise InputError(f"{path} is {value!r}, but it must be {allowed}.")


def require_positive(section: object, prefix: str, *names: str) -> None:
    """Refuse fields that are not greater than 0; `prefix` is the name of the section."""
    for name in names:
        value = getattr(section, name)
        require(value > 0, f"{prefix}.{name}", value, "greater than 0")


def require_not_negative(section: object, prefix: str, *names: str) -> None:
    """Refuse fields that are below 0."""
    for name in names:
        value = getattr(section, name)
        require(value >= 0, f"{prefix}.{name}", value, "at least 0")


def require_fraction(section: object, prefix: str, *names: str) -> None:
    """Refuse fields that are below 0, or 1 or more."""
    for name in names:
        value = getattr(section, name)
        require(0 <= value < 1, f"{prefix}.{name}", value, "at least 0 and below 1")


def require_listed(section: object, prefix: str, *names: str) -> None:
    """Refuse what a recipe gives a field that its `Literal` does not list."""
    hints = get_type_hints(type(section))
    for name in names:
        value, listed = getattr(section, name), get_args(hints[name])
        require(value in listed, f"{prefix}.{name}", value, " or ".join(listed))
