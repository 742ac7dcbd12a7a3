"""Griffe knows "Examples:" as a section of runnable code; the code says "Example:"."""

from __future__ import annotations

import re

import griffe

HEADING = re.compile(r"^( *)Example:$", re.MULTILINE)


class ExampleSections(griffe.Extension):
    """Makes each "Example:" a section of its own, before docstrings are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Called by griffe for every module, class, function and attribute it has read."""
        if obj.docstring is not None:
            obj.docstring.value = HEADING.sub(r"\1Examples:", obj.docstring.value)
