"""What of settings goes into the keys of kept answers."""

from __future__ import annotations

import dataclasses
from typing import Any


def plain_settings(settings: object) -> dict[str, Any]:
    """A dataclass instance as names and values, its parts too, for digests.

    A field that came after answers were first kept says so by `later` in its metadata. It is left
    out while it has its default, so that those answers are still found.
    """
    values: dict[str, Any] = {}
    for item in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, item.name)
        if item.metadata.get("later") and value == item.default:
            continue
        values[item.name] = plain_settings(value) if dataclasses.is_dataclass(value) else value
    return values
