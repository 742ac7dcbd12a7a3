"""The same sweep on a Ray cluster: chunks to workers, rows back, files written here.

A worker gets the definition's tables and a chunk's number and makes its scenarios itself. Ray runs
a chunk again when its worker dies; since a chunk is a function of its number and is written whole,
nothing is lost and nothing doubled. The machine that calls writes all files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapack.errors import MissingPackageError
from lorapack.sweep.chunk import Chunk, run_chunk

if TYPE_CHECKING:
    from lorapack.sweep.grid import Sweep
    from lorapack.sweep.store import Store

RETRIES = 20
"""Times that a chunk is run again after its worker died."""


def chunks_on_ray(
    store: Store, jobs: int | None, progress: Callable[[int], None]
) -> Generator[Chunk, None, None]:
    """Runs the chunks that are missing on the Ray cluster, one core each; they come as they end.

    Joins the cluster that the environment names (``RAY_ADDRESS``), or starts one of this machine.

    Args:
        store: Where they will go.
        jobs: Chunks at a time; ``None``: twice the cluster's cores, so that no core waits.
        progress: Told how many more scenarios are done.

    Raises:
        MissingPackageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingPackageError("--backend ray", "ray", "ray") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run_on_worker)
    definition = ray.put(_portable(store.sweep))
    cores = ray.cluster_resources().get("CPU", 1)
    at_once = jobs or max(1, int(2 * cores))
    waiting = store.missing()[::-1]
    under_way: dict[Any, int] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < at_once:
                number = waiting.pop()
                under_way[task.remote(definition, number, store.indices(number))] = number
            finished, _ = ray.wait(list(under_way), num_returns=1)
            for reference in finished:
                del under_way[reference]
                chunk: Chunk = ray.get(reference)
                progress(len(chunk.rows))
                yield chunk
    finally:
        for reference in under_way:
            ray.cancel(reference, force=True)


def _portable(sweep: Sweep) -> dict[str, Any]:
    """A definition as plain tables, which any worker reads the same."""
    design = {key: value for key, value in vars(sweep.design).items() if value is not None}
    document = {**sweep.document, "design": design}
    return {"document": document, "file": str(Path(sweep.file).absolute())}


def _run_on_worker(definition: dict[str, Any], number: int, indices: range) -> Chunk:
    from lorapack.sweep.grid import Sweep

    sweep = Sweep.from_document(definition["document"], file=definition["file"])
    return run_chunk(sweep, number, indices, jobs=1)
