"""The twin's rules as one would write them by hand over SimPy: clients and an engine.

Every step walks every running and every waiting request. Times are whole picoseconds, so that what
comes out is what the twin says, request by request.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

import simpy

from lorapack import Fleet
from lorapack.profile.front_end import FrontEndTables
from lorapack.profile.step_time import StepTables
from lorapack.twin.scenario import Engine


@dataclass(eq=False, slots=True)
class Request:
    """One request; adapters by number, tokens counted."""

    arrival_ps: int
    adapter: int
    prompt_tokens: int
    output_tokens: int
    generated: int = 0
    computed: int = 0
    blocks: int = 0
    first_token_ps: int | None = None

    @property
    def known(self) -> int:
        """Prompt and generated tokens."""
        return self.prompt_tokens + self.generated


@dataclass(frozen=True)
class Prices:
    """Step times, front end and loads, in picoseconds; loads and walk order by adapter."""

    step: StepTables
    front_end: FrontEndTables
    loads: list[tuple[int, int]]
    walk_place: list[int]


class SimpyTwin:
    """One engine, its API server and its clients."""

    def __init__(self, fleet: Fleet, engine: Engine, prices: Prices, max_in_flight: int) -> None:
        self.engine, self.prices, self.max_in_flight = engine, prices, max_in_flight
        self.base, self.distinct = prices.step.base.tolist(), prices.step.distinct_adapter.tolist()
        self.environment = simpy.Environment(initial_time=0)
        self.in_server: deque[tuple[int, Request]] = deque()
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.last_decodes: list[Request] | None = None
        self.free_blocks = engine.kv_cache_tokens // engine.block_size - 1
        self.cpu: OrderedDict[int, None] = OrderedDict()
        self.gpu: OrderedDict[int, None] = OrderedDict()
        self.seen = [False] * len(fleet)
        self.server_free_ps = self.in_flight = 0
        self.steps = self.loads = self.completed = self.preempted = self.dropped = 0
        self.arrived = self.environment.event()

    def run(self, requests: list[Request], duration_ps: int) -> SimpyTwin:
        """Sends the requests and runs the engine until the end."""
        self.environment.process(self.clients(requests))
        self.environment.process(self.engine_steps(duration_ps))
        self.environment.run(until=duration_ps)
        return self

    def clients(self, requests: list[Request]):  # noqa: ANN201 - a SimPy process
        """Each request arrives, is turned away or goes through the API server."""
        for request in requests:
            yield self.environment.timeout(request.arrival_ps - self.environment.now)
            if self.in_flight >= self.max_in_flight:
                self.dropped += 1
                continue
            front_end = self.prices.front_end
            ready = max(request.arrival_ps, self.server_free_ps) + front_end.request_ps
            if not self.seen[request.adapter]:
                self.seen[request.adapter] = True
                ready += front_end.first_use_ps
            self.server_free_ps = ready
            self.in_flight += 1
            self.in_server.append((ready, request))
            if not self.arrived.triggered:
                self.arrived.succeed()

    def engine_steps(self, duration_ps: int):  # noqa: ANN201 - a SimPy process
        """The engine: decide, load, take the time it takes, hand out tokens."""
        now = 0
        while True:
            self.hand_over(now)
            if not self.waiting and not self.running:
                if not self.in_server:
                    self.arrived = self.environment.event()
                    yield self.arrived
                yield self.environment.timeout(self.in_server[0][0] - self.environment.now)
                now = self.environment.now
                continue
            scheduled, took = self.decide()
            if now + took > duration_ps:
                return
            yield self.environment.timeout(took)
            now = self.environment.now
            self.steps += 1
            self.hand_out_tokens(scheduled, now)

    def hand_over(self, now: int) -> None:
        """Requests that the API server is done with join the waiting queue."""
        while self.in_server and self.in_server[0][0] <= now:
            self.waiting.append(self.in_server.popleft()[1])

    def decide(self) -> tuple[list[tuple[Request, int]], int]:
        """The nine rules; what was scheduled, and what the step takes."""
        budget = self.engine.max_num_batched_tokens
        scheduled: list[tuple[Request, int]] = []
        preempted = False
        position = 0
        while position < len(self.running) and budget > 0:
            request = self.running[position]
            tokens = min(request.known - request.computed, budget)
            while not self.take_blocks(request, tokens):
                victim = self.preempt_last()
                preempted = True
                if victim is request:
                    break
            else:
                budget -= tokens
                scheduled.append((request, tokens))
                position += 1
                continue
            break
        adapters = {request.adapter for request, _ in scheduled}
        skipped = 0 if preempted else self.admit(scheduled, adapters, budget)
        return scheduled, self.price(scheduled, adapters, skipped) + self.load(adapters)

    def admit(self, scheduled: list[tuple[Request, int]], adapters: set[int], budget: int) -> int:
        """Waiting requests, from the front; how many were passed over for lack of a slot."""
        aside: list[Request] = []
        engine = self.engine
        while self.waiting and budget > 0 and len(self.running) < engine.max_num_seqs:
            request = self.waiting[0]
            if request.adapter not in adapters and len(adapters) >= engine.max_loras:
                aside.append(self.waiting.popleft())
                continue
            tokens = min(request.known, budget)
            if not self.take_blocks(request, tokens):
                break
            self.running.append(self.waiting.popleft())
            adapters.add(request.adapter)
            budget -= tokens
            scheduled.append((request, tokens))
        self.waiting.extendleft(reversed(aside))
        return len(aside)

    def take_blocks(self, request: Request, tokens: int) -> bool:
        """The blocks that so many more computed tokens need: all or none."""
        lacking = -(-(request.computed + tokens) // self.engine.block_size) - request.blocks
        if lacking > self.free_blocks:
            return False
        if lacking > 0:
            self.free_blocks -= lacking
            request.blocks += lacking
        return True

    def preempt_last(self) -> Request:
        """The last running request loses its blocks and waits at the very front."""
        victim = self.running.pop()
        self.free_blocks += victim.blocks
        victim.blocks = victim.computed = 0
        self.waiting.appendleft(victim)
        self.preempted += 1
        return victim

    def price(self, scheduled: list[tuple[Request, int]], adapters: set[int], skipped: int) -> int:
        """The step's price by its batch, loads not included."""
        tokens = context = pairs = 0
        for request, chunk in scheduled:
            tokens += chunk
            context += request.computed
            if chunk > 1:
                pairs += chunk * request.computed + chunk * (chunk + 1) // 2
        step = self.prices.step
        mapping_ps = 0
        if self.is_new_batch(scheduled):
            mapping_ps = step.mapping_ps + step.mapping_request_ps * len(scheduled)
        context_ps = step.mixed_context_token_ps if pairs else step.context_token_ps
        return (
            self.base[tokens]
            + self.distinct[tokens] * len(adapters)
            + step.request_ps * len(scheduled)
            + context_ps * context
            + step.attention_pair_ps * pairs
            + step.skipped_ps * skipped
            + step.waiting_ps * len(self.waiting)
            + mapping_ps
        )

    def is_new_batch(self, scheduled: list[tuple[Request, int]]) -> bool:
        """Whether it is anything but one token of each of the same requests once more."""
        if not scheduled:
            return False
        decodes = [request for request, chunk in scheduled if chunk == 1]
        last = self.last_decodes
        self.last_decodes = decodes if len(decodes) == len(scheduled) else None
        return self.last_decodes is None or decodes != last

    def load(self, adapters: set[int]) -> int:
        """Walks the batch's adapters through CPU cache and slots; what loads take."""
        took = 0
        for adapter in sorted(adapters, key=self.prices.walk_place.__getitem__):
            gpu_ps, disk_ps = self.prices.loads[adapter]
            if adapter in self.cpu:
                self.cpu.move_to_end(adapter)
            else:
                took += disk_ps
                if len(self.cpu) == self.engine.max_cpu_loras:
                    self.gpu.pop(self.cpu.popitem(last=False)[0], None)
                self.cpu[adapter] = None
            if adapter in self.gpu:
                self.gpu.move_to_end(adapter)
            else:
                took += gpu_ps
                self.loads += 1
                if len(self.gpu) == self.engine.max_loras:
                    self.gpu.popitem(last=False)
                self.gpu[adapter] = None
        return took

    def hand_out_tokens(self, scheduled: list[tuple[Request, int]], now: int) -> None:
        """Who has all known tokens computed gets one; who has enough leaves."""
        ended = False
        for request, tokens in scheduled:
            request.computed += tokens
            if request.computed == request.known:
                request.generated += 1
                if request.first_token_ps is None:
                    request.first_token_ps = now
                ended |= request.generated == request.output_tokens
        if not ended:
            return
        for request in self.running:
            if request.generated == request.output_tokens:
                self.free_blocks += request.blocks
                self.completed += 1
                self.in_flight -= 1
        self.running = [r for r in self.running if r.generated < r.output_tokens]
