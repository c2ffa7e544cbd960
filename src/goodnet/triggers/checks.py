"""Checks of settings that triggers share; each names the field, what it is and what it may be."""

from __future__ import annotations

import math
from typing import TypeGuard

from goodnet.errors import SettingsError


def check_numbers(field: str, values: object, count: int) -> None:
    """Raises unless `values` are `count` numbers from 0 to 1."""
    if (
        not isinstance(values, tuple)
        or len(values) != count
        or not all(_is_number(value) and 0.0 <= value <= 1.0 for value in values)
    ):
        raise SettingsError(field, values, f"give {count} numbers from 0 to 1")


def check_place(field: str, place: object) -> None:
    """Raises unless `place` is (down, right) inside the image."""
    if not isinstance(place, tuple) or len(place) != 2:
        raise SettingsError(field, place, "give (down, right), each from 0 to 1")
    check_numbers(field, place, 2)


def check_share(field: str, share: object, of: str = "the image") -> None:
    """Raises unless `share` is above 0 and at most 1."""
    if not (_is_number(share) and 0.0 < share <= 1.0):
        raise SettingsError(field, share, f"give a share of {of} above 0 and at most 1")


def check_between(field: str, value: object, least: float, most: float) -> None:
    """Raises unless `value` is a number above `least` and at most `most`."""
    if not (_is_number(value) and least < value <= most):
        raise SettingsError(field, value, f"give a number above {least:g} and at most {most:g}")


def check_whole(field: str, value: object, least: int, most: int | None = None) -> None:
    """Raises unless `value` is a whole number of at least `least` and at most `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and least <= value and (most is None or value <= most)):  # type: ignore[operator]
        end = "" if most is None else f" and at most {most}"
        raise SettingsError(field, value, f"give a whole number of at least {least}{end}")


def check_seed(field: str, seed: object) -> None:
    """Raises unless `seed` is one that a `torch.Generator` takes."""
    check_whole(field, seed, 0, 2**63 - 1)


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for any fraction
        return False
