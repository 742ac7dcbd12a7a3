"""Each GPU as a room filled to its Maxpack: adapters are tiles, sized by load.

The room is what the GPU holds within the service level; what its margin leaves free stays hatched.
Tiles are laid out by the squarified treemap of Bruls, Huizing and van Wijk (2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorapack.packer.plan import PlannedAdapter, PlannedGpu

WIDTH, HEIGHT = 320.0, 190.0
"""A room in the drawing's own units."""

_LABEL_WIDTH, _LABEL_HEIGHT = 28.0, 18.0
_LETTER_WIDTH = 6.7
_LEAST_LETTERS = 10
"""A name cut shorter than this tells nothing: fleets' names begin alike."""

MOST_TILES = 400
"""Tiles a room draws; smaller adapters share one, or they would be specks."""

TILES_A_PAGE = 4000
"""Tiles of all rooms: beyond, each draws fewer."""

ROWS_A_PAGE = 6000
"""Rows of the tables of all rooms: beyond, each lists its heaviest adapters only."""


@dataclass(frozen=True)
class Tile:
    """One adapter's tile.

    Attributes:
        name: The adapter's name, or how many share the tile.
        rank: Its rank; -1 where several share it.
        load: Its load.
        x: Left edge.
        y: Upper edge.
        width: Width.
        height: Height.
        label: Its name as far as it fits; empty where it does not.
    """

    name: str
    rank: int
    load: float
    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Room:
    """One GPU as drawn.

    Attributes:
        gpu: The GPU.
        tiles: Its adapters, the heaviest first.
        load: Sum of their loads.
        filled: Share of the room that they fill, 0..1: load over load with the margin.
        listed: The adapters that its table lists.
    """

    gpu: PlannedGpu
    tiles: tuple[Tile, ...]
    load: float
    filled: float
    listed: tuple[PlannedAdapter, ...]

    @property
    def free_x(self) -> float:
        """Where the free part begins."""
        return WIDTH * self.filled


def load_of(row: PlannedAdapter) -> float:
    """An adapter's load on its GPU: requests per second.

    Args:
        row: The adapter.

    Returns:
        Its rate, or a trifle for one that sends nothing, so that it is seen.
    """
    return max(row.rate_rps, 1e-9)


def rooms_of(gpus: Sequence[PlannedGpu]) -> list[Room]:
    """Lays out all GPUs of a plan, within what a page can hold.

    Args:
        gpus: The GPUs.

    Returns:
        One room a GPU.
    """
    n_gpus = max(1, len(gpus))
    most_tiles = min(MOST_TILES, max(4, TILES_A_PAGE // n_gpus))
    most_rows = max(5, ROWS_A_PAGE // n_gpus)
    return [room_of(gpu, most_tiles, most_rows) for gpu in gpus]


def room_of(gpu: PlannedGpu, most_tiles: int = MOST_TILES, most_rows: int = ROWS_A_PAGE) -> Room:
    """Lays out one GPU.

    Args:
        gpu: The GPU.
        most_tiles: Tiles it may draw.
        most_rows: Adapters its table may list.

    Returns:
        Its room.
    """
    rows = sorted(gpu.adapters, key=lambda row: (-load_of(row), row.adapter))
    named = [(row.adapter, row.rank, load_of(row)) for row in rows[:most_tiles]]
    rest = rows[most_tiles:]
    if rest:
        named.append((f"{len(rest)} more adapters", -1, sum(map(load_of, rest))))
    filled = 1.0 / (1.0 + gpu.margin)
    boxes = squarified([load for _, _, load in named], WIDTH * filled, HEIGHT)
    tiles = tuple(
        Tile(name, rank, load, *box, label=_label(name, box[2], box[3]))
        for (name, rank, load), box in zip(named, boxes, strict=True)
    )
    load = sum(load for _, _, load in named)
    return Room(gpu, tiles, load, filled, tuple(rows[:most_rows]))


def squarified(
    sizes: Sequence[float], width: float, height: float
) -> list[tuple[float, float, float, float]]:
    """Cuts a rectangle into parts of given sizes, each as near a square as it can be.

    Args:
        sizes: Positive sizes, the largest first.
        width: Width of the rectangle.
        height: Height of the rectangle.

    Returns:
        (x, y, width, height) of each part, in the order of the sizes; areas are in proportion.

    Example:
        >>> squarified([1, 1], 2, 1)
        [(0.0, 0.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0)]
    """
    if not sizes:
        return []
    scale = width * height / sum(sizes)
    areas = [size * scale for size in sizes]
    boxes: list[tuple[float, float, float, float]] = []
    x, y, start = 0.0, 0.0, 0
    while start < len(areas):
        side = min(width, height)
        end = start + 1
        while end < len(areas) and _worst(areas[start : end + 1], side) <= _worst(
            areas[start:end], side
        ):
            end += 1
        thickness = sum(areas[start:end]) / side if side > 0 else 0.0
        boxes.extend(_strip(areas[start:end], x, y, thickness, along_height=width >= height))
        if width >= height:
            x, width = x + thickness, max(width - thickness, 0.0)
        else:
            y, height = y + thickness, max(height - thickness, 0.0)
        start = end
    return boxes


def _worst(areas: Sequence[float], side: float) -> float:
    """The largest ratio of sides among the parts of one strip."""
    total = sum(areas)
    if side <= 0 or total <= 0:
        return 1.0
    return max(side**2 * max(areas) / total**2, total**2 / (side**2 * min(areas)))


def _strip(
    areas: Sequence[float], x: float, y: float, thickness: float, *, along_height: bool
) -> list[tuple[float, float, float, float]]:
    boxes = []
    for area in areas:
        length = area / thickness if thickness > 0 else 0.0
        if along_height:
            boxes.append((x, y, thickness, length))
            y += length
        else:
            boxes.append((x, y, length, thickness))
            x += length
    return boxes


def _label(name: str, width: float, height: float) -> str:
    if width < _LABEL_WIDTH or height < _LABEL_HEIGHT:
        return ""
    room = int((width - 7) / _LETTER_WIDTH)
    if len(name) <= room:
        return name
    return name[: room - 1] + "…" if room >= _LEAST_LETTERS else ""
