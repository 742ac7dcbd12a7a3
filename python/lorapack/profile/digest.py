"""A hash of what a simulated run depends on of its profile: whom models and sweeps belong to."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import TYPE_CHECKING

from lorapack.profile.section import write_section

if TYPE_CHECKING:
    from lorapack.profile.profile import Profile

WITHOUT_EFFECT = ("name", "provenance", "price", "gpu")
"""Sections that no simulated run reads."""


@functools.lru_cache(maxsize=64)
def digest_of(profile: Profile) -> str:
    """SHA-256 of the profile's constants, those without effect on a run left out."""
    tables = write_section(profile)
    text = json.dumps({k: v for k, v in tables.items() if k not in WITHOUT_EFFECT}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
