"""How far predictors are from the twin on fleets that they have not seen: means of eight draws.

python benches/unseen.py [--n FLEETS] [--profile NAME] [--model FILE] [--folder DIR]

Fleets are drawn by the law of the training sweep, with another seed. With --folder the sweep stays
there and is taken up again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from lorapack import Predictor
from lorapack.predictor.targets import HEADS, N_LOG_HEADS, labelled, labels_of
from lorapack.predictor.train import Rows, errors, rows_of_sweep
from lorapack.profile.profile import DEFAULT_PROFILE
from lorapack.sweep import Sweep, run_sweep
from lorapack.sweep.store import scan_sweep

SEED = 1001
"""Of fleets; training's is 0."""

DRAWS = 8


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--profile", default=DEFAULT_PROFILE)
    parser.add_argument("--model")
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:
        folder = Path(arguments.folder or Path(own) / "rows")
        run_sweep(unseen(arguments.profile, arguments.n), folder, resume=folder.exists())
        rows, _ = rows_of_sweep(folder)
        runs = labelled(scan_sweep(folder).collect())
    model = Predictor.load(arguments.model or arguments.profile)
    told = model.predict_many(rows.features).astype(np.float64)
    print(f"{len(rows)} fleets of {arguments.profile}")
    clients = rows.kind == "clients"
    for title, mask in (("all", clients | True), ("clients", clients), ("others", ~clients)):
        print(f"\n{title}: {mask.sum()}")
        report(told[mask], rows.part(mask))
    print("\nsingle runs inside the intervals, which are made for them:")
    of_row = np.searchsorted(rows.fleet, runs["scenario"].to_numpy() // DRAWS)
    inside(told[of_row], labels_of(runs), model.targets)


def unseen(profile: str, n: int) -> Sweep:
    """The training sweep with other fleets, each drawn eight times."""
    training = Sweep.read("training", profile=profile)
    design = {key: value for key, value in vars(training.design).items() if value is not None}
    return Sweep.from_document(
        {**training.document, "design": {**design, "n": n, "seeds": DRAWS, "seed": SEED}},
        file=training.file,
    )


def report(told: np.ndarray, rows: Rows) -> None:
    """One line a target."""
    for target, figures in errors(told, rows).items():
        print(f"{target:20s}", *(f"{name} {value:.3f}" for name, value in figures.items()))


def inside(told: np.ndarray, labels: np.ndarray, targets: tuple[str, ...]) -> None:
    """One line a quantity: the share of labels between its low and its high end."""
    for i, head in enumerate(HEADS[:N_LOG_HEADS]):
        low, high = (told[:, targets.index(f"{head.name}_{end}")] for end in ("low", "high"))
        print(f"{head.name:20s} {np.mean((low <= labels[:, i]) & (labels[:, i] <= high)):.3f}")


if __name__ == "__main__":
    main()
