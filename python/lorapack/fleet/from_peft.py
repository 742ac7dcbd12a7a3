"""Adapter folders become a fleet: ranks and paths from the files, rates by a stated split.

Files say nothing about load: a total rate is split by a popularity law, or left at 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorapack.errors import InputError
from lorapack.fleet.adapter import LARGEST_RANK, Adapter, is_clean_text
from lorapack.fleet.draw import Popularity, significant, stream
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.peft_adapter import CONFIG, PeftAdapter, read_peft_adapter
from lorapack.fleet.target_modules import listed
from lorapack.profile.model_shape import ModelShape


@dataclass(frozen=True)
class PeftFolders:
    """What was found under some folders.

    Attributes:
        adapters: Those that could be read.
        damaged: Why the others could not, each naming its file.
    """

    adapters: tuple[PeftAdapter, ...]
    damaged: tuple[InputError, ...]


def read_peft_folders(
    folders: Iterable[str | os.PathLike[str]], model: ModelShape | None = None
) -> PeftFolders:
    """Reads every adapter in or under some folders.

    Args:
        folders: Adapter folders, or folders of them (at any depth; links are not followed).
        model: The base model to hold their modules against; ``None`` leaves them unchecked.

    Returns:
        Adapters, named by their path under the folder given, and what was damaged.

    Raises:
        InputError: A folder holds no adapter, or two adapters would have one name.
    """
    adapters: dict[str, PeftAdapter] = {}
    damaged: list[InputError] = []
    for top in map(Path, folders):
        for folder, name in _adapter_folders(top):
            try:
                found = read_peft_adapter(folder, name, model)
            except InputError as error:
                damaged.append(error)
                continue
            if name in adapters:
                mend = f"{adapters[name].folder} has this name too: give their common parent"
                raise InputError(folder, "name", name, mend)
            adapters[name] = found
    return PeftFolders(tuple(adapters.values()), tuple(damaged))


def _adapter_folders(top: Path) -> list[tuple[Path, str]]:
    """Folders that hold a config, each with its name: the path from ``top``, or its own."""
    if not top.is_dir():
        raise InputError(top, None, None, "give a folder")
    found = []
    for folder, subfolders, files in os.walk(top):
        subfolders.sort()
        if CONFIG in files:
            path = Path(folder)
            name = path.resolve().name if path == top else path.relative_to(top).as_posix()
            if not is_clean_text(name):
                raise InputError(folder, "name", name, "rename it without control characters")
            found.append((path, name))
    if not found:
        raise InputError(top, None, None, f"holds no {CONFIG}, nor does any folder in it")
    return found


def features_in(adapters: Sequence[PeftAdapter]) -> list[str]:
    """What is out of the ordinary, and about whom.

    Args:
        adapters: Those read.

    Returns:
        One line a feature; of many adapters, the first few and how many more.
    """
    by_feature: dict[str, list[str]] = {}
    for adapter in adapters:
        for feature in adapter.features:
            saved = listed(adapter.saved_modules) if feature == "modules_to_save" else ""
            by_feature.setdefault(f"{feature} {saved}".strip(), []).append(adapter.name)
    return [
        f"{feature} in {listed(names)}, {len(names)} of {len(adapters)} adapters"
        for feature, names in by_feature.items()
    ]


def taken_by(
    found: PeftFolders, engine: str | None
) -> tuple[tuple[PeftAdapter, ...], tuple[InputError, ...]]:
    """Parts what can be served from what cannot.

    Args:
        found: Folders read.
        engine: An engine version whose refusals count; ``None`` asks none.

    Returns:
        The adapters taken, and why each other one is not: damaged, over any engine's largest rank,
        or refused by ``engine``.
    """
    taken, refused = [], list(found.damaged)
    for adapter in found.adapters:
        reasons = adapter.refused_by.get(engine, ()) if engine else ()
        if adapter.rank > LARGEST_RANK:
            reasons = (f"rank {adapter.rank} is over {LARGEST_RANK}, the largest max_lora_rank",)
        if reasons:
            mend = f"{engine or 'every engine'} refuses it: {', '.join(reasons)}"
            refused.append(InputError(adapter.folder, None, None, mend))
        else:
            taken.append(adapter)
    return tuple(taken), tuple(refused)


def fleet_from_peft(
    adapters: Sequence[PeftAdapter],
    *,
    rate_rps: float = 0.0,
    popularity: Popularity | None = None,
    seed: int = 0,
) -> Fleet:
    """Makes a fleet of adapter folders.

    Args:
        adapters: One or more.
        rate_rps: Requests per second of all together; 0 leaves every rate at 0.
        popularity: How the total is split; uniform by default.
        seed: Of a drawn popularity.

    Returns:
        The fleet; ``model`` is set when the adapters have more than one base model.

    Raises:
        InputError: There is none, the rate is no rate, or a rank is over what any engine takes.
    """
    if not adapters:
        raise InputError(None, "adapters", None, "give at least one that can be read")
    if not 0 <= rate_rps < float("inf"):
        raise InputError(None, "rate", rate_rps, "give a finite rate of 0 or more")
    law = popularity or Popularity("uniform", 0.0)
    weights = law.weights(len(adapters), stream(seed, "popularity"))
    several = len({found.base_model for found in adapters}) > 1
    rows = [
        Adapter(
            found.name,
            found.rank,
            significant(float(weight) * rate_rps),
            path=found.folder,
            model=found.base_model if several else None,
        )
        for found, weight in zip(adapters, weights, strict=True)
    ]
    rates = f"{rate_rps:g} requests/s split by {law}" if rate_rps else "not known, left at 0"
    provenance = {
        "made by": "lorapack fleet from-peft",
        "rule": f"ranks from the tensors; rates {rates}",
        "seed": str(seed),
    }
    return Fleet(rows, provenance)
