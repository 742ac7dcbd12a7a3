"""The model card: what a predictor was learnt from, what it is worth, and where it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorapack.atomic_file import write_text

Errors = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Card:
    """What is to be known of a model.

    Attributes:
        profile: What it was trained for.
        n_rows: Rows to learn from, rows to learn doubt from, rows kept aside.
        targets: Errors on fleets kept aside, by target.
        by_kind: The same by how the fleets' rates were drawn.
        ranges: Smallest and largest value of each raw feature in training.
        seed: Of the training.
        definition: Hash of the sweep that it was learnt from.
    """

    profile: str
    n_rows: Mapping[str, int]
    targets: Errors
    by_kind: Mapping[str, Errors]
    ranges: Mapping[str, tuple[float, float]]
    seed: int
    definition: str

    def to_dict(self) -> dict[str, Any]:
        """The card in JSON's types."""
        return asdict(self)

    def to_markdown(self, digest: str) -> str:
        """The card for people.

        Args:
            digest: SHA-256 of the model's file.
        """
        rows = self.n_rows
        return "\n".join(
            [
                f"# Predictor of {self.profile}",
                "",
                f"SHA-256 `{digest}`. Learnt from {rows['learn']:,} simulated runs of one GPU,",
                f"doubt from {rows['doubt']:,} runs of other fleets; the errors below are on",
                f"{rows['kept_aside']:,} runs of fleets that nothing was learnt from. It knows the",
                "twin, not the engine: where the twin is off, so is the model.",
                "",
                f"Sweep `{self.definition[:16]}`, seed {self.seed}.",
                "",
                *_error_table("All fleets kept aside", self.targets),
                *(
                    line
                    for kind, targets in self.by_kind.items()
                    for line in _error_table(f"Rates: {kind}", targets)
                ),
                "## Range",
                "",
                "A row with a raw feature outside these is flagged `out_of_range`.",
                "",
                "| feature | least | most |",
                "| --- | --- | --- |",
                *(f"| {n} | {low:.4g} | {high:.4g} |" for n, (low, high) in self.ranges.items()),
                "",
            ]
        )


def write_card(
    card: Card, model_path: str | os.PathLike[str], digest: str, *, force: bool = False
) -> None:
    """Writes the card beside its model, as ``.json`` and ``.md``.

    Args:
        card: The card.
        model_path: The model's file.
        digest: SHA-256 of that file.
        force: Replace files that exist.
    """
    path = Path(model_path)
    data = {"sha256": digest, **card.to_dict()}
    write_text(path.with_suffix(".json"), json.dumps(data, indent=2) + "\n", force=force)
    write_text(path.with_suffix(".md"), card.to_markdown(digest), force=force)


def _error_table(title: str, targets: Errors) -> list[str]:
    lines = [f"## {title}", "", "| target | errors |", "| --- | --- |"]
    for name, figures in targets.items():
        told = ", ".join(f"{figure} {value:.3g}" for figure, value in figures.items())
        lines.append(f"| {name} | {told} |")
    return [*lines, ""]
