"""The service: four routes, each a call into the library; errors become statuses in one place.

========  ================================================================
404       no such profile is offered
422       the input cannot be used: place, value and mend, as on the command line
409       the input is fine, but no plan exists, or the engine would not start
503       no predictor for the profile, or another fleet is being packed
413       the body is too large
========  ================================================================
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Counter as CounterMetric
from prometheus_client import Gauge as GaugeMetric
from prometheus_client import Histogram as HistogramMetric

from lorapack.errors import Infeasible, InputError, did_you_mean
from lorapack.packer.pack import pack as pack_fleet
from lorapack.profile.profile import Profile
from lorapack.serve.limits import BodyLimit
from lorapack.serve.messages import (
    Health,
    PackRequest,
    Plan,
    Prediction,
    PredictRequest,
    Problem,
)
from lorapack.serve.prediction import NoPredictorError, Predictors
from lorapack.twin.service_level import service_level

if TYPE_CHECKING:
    from starlette.middleware.base import RequestResponseEndpoint

Packer = Callable[..., Any]
"""As `lorapack.packer.pack.pack`."""

Predict = Callable[[Profile, PredictRequest], Prediction]
"""As `lorapack.serve.prediction.Predictors.predict`."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such profile is offered."},
    409: {"model": Problem, "description": "The input is sound, yet no answer exists."},
    413: {"model": Problem, "description": "The body is too large."},
    503: {"model": Problem, "description": "Not now, or not without a model."},
}


class UnknownProfileError(Exception):
    """A profile was asked for that the service does not offer."""


@dataclass(frozen=True)
class ServiceSettings:
    """What the service offers.

    Attributes:
        profiles: The profiles it answers for, by name; the first is the default.
        predictors: What `/predict` asks.
        jobs: Threads a pack may use; None: all cores.
        most_bytes: Largest body, bytes.
        packs_at_once: Fleets that may be packed side by side; more are answered 503.
    """

    profiles: tuple[Profile, ...]
    predictors: Predictors = field(default_factory=Predictors)
    jobs: int | None = None
    most_bytes: int = 8_000_000
    packs_at_once: int = 1

    def profile(self, name: str | None) -> Profile:
        """A profile by name: only those offered, never a file of this machine.

        Args:
            name: The name; None takes the first.

        Returns:
            The profile.

        Raises:
            UnknownProfileError: It is not offered.
        """
        by_name = {profile.name: profile for profile in self.profiles}
        if name is None:
            return self.profiles[0]
        if name not in by_name:
            raise UnknownProfileError(did_you_mean(name, by_name))
        return by_name[name]


@dataclass
class Metrics:
    """What `/metrics` tells, in a registry of its own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.requests = CounterMetric(
            "lorapack_http_requests",
            "Requests answered.",
            ["path", "status"],
            registry=self.registry,
        )
        self.seconds = HistogramMetric(
            "lorapack_http_request_seconds",
            "Time to answer, seconds.",
            ["path"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600),
            registry=self.registry,
        )
        self.packing = GaugeMetric(
            "lorapack_packs_in_progress", "Fleets being packed.", registry=self.registry
        )


def create_app(
    settings: ServiceSettings,
    *,
    pack: Packer = pack_fleet,
    predict: Predict | None = None,
) -> FastAPI:
    """Builds the service.

    Args:
        settings: What it offers.
        pack: What packs a fleet.
        predict: What answers for one GPU; None: the settings' predictors.

    Returns:
        An ASGI application.
    """
    app = FastAPI(
        title="lorapack",
        version=version("lorapack"),
        description="How few GPUs serve a fleet of LoRA adapters, and which adapter goes where.",
    )
    metrics = Metrics()
    answer = settings.predictors.predict if predict is None else predict
    packs = threading.BoundedSemaphore(settings.packs_at_once)
    app.add_middleware(BodyLimit, most_bytes=settings.most_bytes)
    _count_requests(app, metrics)
    _answer_errors(app)

    @app.post("/predict", responses={s: _PROBLEMS[s] for s in (404, 409, 413, 503)})
    def predict_route(request: PredictRequest) -> Prediction:
        """What one GPU that holds these adapters would do, by the predictor."""
        return answer(settings.profile(request.profile), request)

    @app.post("/pack", responses=_PROBLEMS)
    def pack_route(request: PackRequest) -> Plan:
        """Places a fleet on the fewest GPUs, each re-checked by the twin: seconds to minutes."""
        if not packs.acquire(blocking=False):
            raise _BusyError
        try:
            with metrics.packing.track_inprogress():
                return _packed(settings, request, pack)
        finally:
            packs.release()

    @app.get("/healthz")
    def healthz() -> Health:
        """Whether the service can answer, and for which profiles."""
        return Health(
            status="ok",
            version=app.version,
            profiles=[profile.name for profile in settings.profiles],
            predictors=[p.name for p in settings.profiles if settings.predictors.has(p)],
        )

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics_route() -> Response:
        """Requests, times and packs in progress, for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


class _BusyError(Exception):
    """All the packs that may run are running."""


def _packed(settings: ServiceSettings, request: PackRequest, pack: Packer) -> Plan:
    level = service_level(request.slo)
    if request.ttft_p99_ms is not None:
        level = level.with_parts(ttft_p99_ms=request.ttft_p99_ms)
    plan = pack(
        settings.profile(request.profile),
        request.fleet(),
        slo=level,
        rate_headroom=request.rate_headroom,
        gpus=request.gpus,
        objective=request.objective,
        method=request.method,
        strict=request.strict,
        seed=request.seed,
        n_seeds=request.n_seeds,
        jobs=settings.jobs,
    )
    return Plan(**plan.to_dict())


def _count_requests(app: FastAPI, metrics: Metrics) -> None:
    @app.middleware("http")
    async def count(request: Request, call_next: RequestResponseEndpoint) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        # Paths that are no route share one name, or whoever asks could grow the registry.
        path = request.url.path if "route" in request.scope else "other"
        metrics.requests.labels(path, str(response.status_code)).inc()
        metrics.seconds.labels(path).observe(time.perf_counter() - start)
        return response


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(InputError)
    def bad_input(_: Request, error: InputError) -> JSONResponse:
        # FastAPI's own form of a 422, so that a client reads one.
        found = {"type": "value_error", "loc": ["body", error.place], "msg": str(error)}
        return JSONResponse({"detail": [found]}, status_code=422)

    @app.exception_handler(UnknownProfileError)
    def unknown_profile(_: Request, error: UnknownProfileError) -> JSONResponse:
        detail = "no such profile is offered"
        return _problem(404, Problem(error="no_profile", detail=detail, mend=str(error)))

    @app.exception_handler(Infeasible)
    def infeasible(_: Request, error: Infeasible) -> JSONResponse:
        return _problem(409, Problem(error="infeasible", detail=error.limit, mend=error.nearest))

    @app.exception_handler(NoPredictorError)
    def no_predictor(_: Request, error: NoPredictorError) -> JSONResponse:
        mend = "train one with `lorapack train`, or ask /pack"
        return _problem(503, Problem(error="no_predictor", detail=str(error), mend=mend))

    @app.exception_handler(_BusyError)
    def busy(_: Request, error: _BusyError) -> JSONResponse:  # noqa: ARG001 - FastAPI's signature
        problem = Problem(error="busy", detail="another fleet is being packed", mend="ask again")
        return _problem(503, problem, {"Retry-After": "10"})


def _problem(
    status: int, problem: Problem, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(problem.model_dump(), status_code=status, headers=headers)
