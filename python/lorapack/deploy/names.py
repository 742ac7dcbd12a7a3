"""What a name must not do, and the slug it gets where it may not stand.

A fleet's names come from outside. In a shell script, JSON, YAML and CSV they are quoted; in a
Kubernetes object's name or label they are slugged; where neither helps they are refused.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from lorapack.errors import InputError

LONGEST_LABEL = 63
"""Characters of a DNS-1123 label and of a Kubernetes label's value."""

LONGEST_FILE_NAME = 255
"""Bytes of one folder's name on the file systems servers run on."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def check_text(text: str, place: str) -> str:
    """Passes text on unless it holds characters that nobody sees or that end a line.

    Control characters, line and paragraph separators, direction overrides and lone surrogates are
    refused everywhere: quoted they would be harmless to a parser, but not to a terminal, a log or
    whoever reviews the file.

    Args:
        text: A name or a path.
        place: Where it stands in the plan.

    Returns:
        The text, unchanged.

    Raises:
        InputError: It is empty or holds such a character.
    """
    if not text:
        raise InputError("plan", place, text, "give a name of at least one character")
    if any(unicodedata.category(letter) in _UNPRINTABLE for letter in text):
        raise InputError("plan", place, text, "use a name without control or invisible characters")
    return text


def check_word(text: str, place: str) -> str:
    """As :func:`check_text`, and not mistaken for a flag where a command line takes it bare.

    Args:
        text: A model's name or folder, or a name it is served by.
        place: Where it stands in the plan.

    Returns:
        The text, unchanged.
    """
    if check_text(text, place).startswith("-"):
        raise InputError("plan", place, text, "use a name that does not begin with a dash")
    return text


def is_dns_label(text: str) -> bool:
    """Whether Kubernetes takes it as an object's name (DNS-1123 label).

    Args:
        text: A name.

    Returns:
        True for 1 to 63 of `a-z 0-9 -`, with no dash at either end.
    """
    return _DNS_LABEL.fullmatch(text) is not None


def slug(text: str, length: int = LONGEST_LABEL, digits: int = 8) -> str:
    """A DNS-1123 label that stands for any text: itself if it is one, else a likeness and a hash.

    Args:
        text: Any text.
        length: Most characters of the slug.
        digits: Hexadecimal digits of the hash.

    Returns:
        The same slug for the same text, always.

    Example:
        >>> slug("llama-sql")
        'llama-sql'
        >>> slug("Ünïcode/$(reboot)")
        'unicode-reboot-da344b4a'
    """
    if is_dns_label(text) and len(text) <= length:
        return text
    return hashed_slug(text, length, digits)


def hashed_slug(text: str, length: int = LONGEST_LABEL, digits: int = 8) -> str:
    """As :func:`slug`, with the hash even where the text could stand for itself.

    Args:
        text: Any text.
        length: Most characters of the slug.
        digits: Hexadecimal digits of the hash.

    Returns:
        A DNS-1123 label ending in the hash.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    likeness = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    room = length - digits - 1
    fingerprint = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
    likeness = likeness[:room].rstrip("-") or "adapter"[:room]
    return f"{likeness}-{fingerprint}"


def slugs(names: Iterable[str], length: int = LONGEST_LABEL) -> dict[str, str]:
    """Different slugs for different names; a name that is a label keeps itself.

    Args:
        names: Any names, in any order; one said twice counts once.
        length: Most characters of a slug.

    Returns:
        Name -> slug. Which order the names came in makes no difference.
    """
    distinct = sorted(set(names))
    found = {name: name for name in distinct if is_dns_label(name) and len(name) <= length}
    taken = set(found)
    for name in distinct:
        if name in found:
            continue
        candidates = (hashed_slug(name, length, digits) for digits in (8, 16, 24, 32, 40))
        found[name] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(found[name])
    return found


def joined(root: str, adapter: str) -> str:
    """The adapter's folder under a root: `<root>/<adapter>`, refused if it could lie elsewhere.

    Args:
        root: A folder or a URI.
        adapter: The adapter's name; `org/name` makes a folder in a folder.

    Returns:
        The joined path.

    Raises:
        InputError: A part of the name is empty, `.`, `..` or longer than a file name may be, or
            the name would change the URI's meaning.
    """
    place = f"adapter {adapter}"
    for part in adapter.split("/"):
        if part in ("", ".", ".."):
            raise InputError(
                "plan", place, adapter, "rename it, or give its folder in the fleet's path column"
            )
        if len(part.encode()) > LONGEST_FILE_NAME:
            raise InputError(
                "plan",
                place,
                adapter,
                f"longer than a folder's name may be ({LONGEST_FILE_NAME} bytes): give its folder "
                "in the fleet's path column",
            )
    if "\\" in adapter or ("://" in root and any(letter in adapter for letter in "?#%")):
        raise InputError(
            "plan", place, adapter, "cannot stand in a path: give its folder in the path column"
        )
    return f"{root.rstrip('/')}/{adapter}"
