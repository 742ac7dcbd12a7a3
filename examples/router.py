"""A router that places arriving adapters on GPUs with the predictor, under load.

    python examples/router.py [--gpus 4] [--adapters 200]

Adapters arrive and leave while requests are routed. Placing one asks each GPU's `GpuState` what
would become of it with the newcomer, and takes the fullest GPU that still keeps the service level:
well under a millisecond, in the event loop itself.
"""

import argparse
import asyncio
import random
import time

from lorapack import Adapter, GpuState, Predictor


class Router:
    """GPUs, who is where, and what placing took."""

    def __init__(self, model: Predictor, n_gpus: int) -> None:
        self.gpus = [GpuState(model, max_lora_rank=16, max_loras=64) for _ in range(n_gpus)]
        self.home: dict[str, int] = {}
        self.placing_us: list[float] = []
        self.refused = 0

    def place(self, adapter: Adapter) -> int | None:
        """Puts an adapter on the fullest GPU that keeps the service level, if there is one."""
        begun = time.perf_counter()
        best, best_margin = None, float("inf")
        for index, gpu in enumerate(self.gpus):
            gpu.add(adapter)
            told = gpu.predict()
            gpu.remove(adapter)
            keeps = told.slo_margin > 0 and told.starved_probability < 0.1 and not told.out_of_range
            if keeps and told.slo_margin < best_margin:
                best, best_margin = index, told.slo_margin
        self.placing_us.append((time.perf_counter() - begun) * 1e6)
        if best is None:
            self.refused += 1
            return None
        self.gpus[best].add(adapter)
        self.home[adapter.adapter] = best
        return best

    def leave(self, adapter: Adapter) -> None:
        """Takes an adapter off its GPU."""
        self.gpus[self.home.pop(adapter.adapter)].remove(adapter)


async def churn(router: Router, n_adapters: int, draw: random.Random) -> None:
    """Adapters come, stay a while, and go."""

    async def live(adapter: Adapter) -> None:
        if router.place(adapter) is not None:
            await asyncio.sleep(draw.uniform(0.05, 0.5))
            router.leave(adapter)

    lives = []
    for i in range(n_adapters):
        adapter = Adapter(f"tenant-{i}", draw.choice([8, 16]), draw.lognormvariate(-1.0, 1.0))
        lives.append(asyncio.create_task(live(adapter)))
        await asyncio.sleep(draw.expovariate(500.0))
    await asyncio.gather(*lives)


async def requests(router: Router, stop: asyncio.Event) -> int:
    """Requests that are routed meanwhile: a look-up each."""
    routed = 0
    while not stop.is_set():
        for name in list(router.home)[:50]:
            routed += router.home.get(name) is not None
        await asyncio.sleep(0)
    return routed


async def main(n_gpus: int, n_adapters: int) -> None:
    """Runs both, and says how it went."""
    router = Router(Predictor.load("llama-3.1-8b/h100-64gb/vllm-0.8.5"), n_gpus)
    stop = asyncio.Event()
    routing = asyncio.create_task(requests(router, stop))
    await churn(router, n_adapters, random.Random(0))
    stop.set()
    routed = await routing
    taken = sorted(router.placing_us)
    print(
        f"{len(taken)} adapters placed on {n_gpus} GPUs, {router.refused} refused, {routed} routed"
    )
    median, tail = taken[len(taken) // 2], taken[int(0.99 * len(taken))]
    print(f"placing one: median {median:.0f} us, 99th percentile {tail:.0f} us")
    print(f"left on the GPUs: {sum(len(gpu) for gpu in router.gpus)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--adapters", type=int, default=200)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.gpus, arguments.adapters))
