"""What goes in and what comes out, with the fleet's own limits, so that OpenAPI tells them.

Where the library itself refuses best (it names the mend), the schema says the rule and pydantic
does not check it: which letters a name may hold, which methods there are. What JSON Schema has no
word for stands in the descriptions: that no two adapters have one name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from lorapack.fleet.adapter import (
    COLUMN,
    LARGEST_CV,
    LARGEST_RANK,
    LARGEST_RATE_RPS,
    LARGEST_TOKENS,
    SMALLEST_CV,
    Adapter,
)
from lorapack.fleet.fleet import Fleet
from lorapack.packer.methods import METHODS

LARGEST_FLEET = 20_000
"""Adapters a request may hold."""

Tokens = Annotated[float, Field(ge=1, le=LARGEST_TOKENS)]

_UNPRINTED = r"\u0000-\u001f\u007f-\u009f\u2028\u2029\ufeff"
_BLANKS = r"\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
CLEAN_TEXT = rf"^[^{_UNPRINTED}{_BLANKS}]([^{_UNPRINTED}]*[^{_UNPRINTED}{_BLANKS}])?$"
"""`lorapack.fleet.adapter.is_clean_text` as a regular expression of JSON Schema's (ECMA 262)."""

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=300),
    Field(json_schema_extra={"pattern": CLEAN_TEXT}),
]


def _whole(value: object) -> object:
    """JSON knows one kind of number: 16.0 is the integer 16."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Rank = Annotated[int, Field(ge=0, le=LARGEST_RANK), BeforeValidator(_whole)]
SlotRank = Annotated[int, Field(ge=1, le=LARGEST_RANK), BeforeValidator(_whole)]
Slots = Annotated[int, Field(ge=0, le=100_000), BeforeValidator(_whole)]
Gpus = Annotated[int, Field(ge=1, le=100_000), BeforeValidator(_whole)]
Seeds = Annotated[int, Field(ge=1, le=10), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_whole)]


class Strict(BaseModel):
    """No unknown keys, no NaN, no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class AdapterRow(Strict):
    """One adapter and its load, as a row of a fleet."""

    adapter: Name = Field(description=COLUMN["adapter"].meaning, examples=["tenant-7"])
    rank: Rank = Field(description=COLUMN["rank"].meaning, examples=[16])
    rate_rps: float = Field(
        ge=0, le=LARGEST_RATE_RPS, description=COLUMN["rate_rps"].meaning, examples=[0.2]
    )
    prompt_tokens: Tokens | None = Field(None, description=COLUMN["prompt_tokens"].meaning)
    output_tokens: Tokens | None = Field(None, description=COLUMN["output_tokens"].meaning)
    cv: float = Field(1.0, ge=SMALLEST_CV, le=LARGEST_CV, description=COLUMN["cv"].meaning)
    gaps: Literal["gamma", "weibull"] = Field("gamma", description=COLUMN["gaps"].meaning)
    model: Name | None = Field(None, description=COLUMN["model"].meaning)
    pin: Name | None = Field(None, description=COLUMN["pin"].meaning)
    keep_apart: Name | None = Field(None, description=COLUMN["keep_apart"].meaning)
    path: Name | None = Field(None, description=COLUMN["path"].meaning)


class FleetMessage(Strict):
    """A fleet and the profile it is to be served with."""

    adapters: list[AdapterRow] = Field(
        min_length=1, max_length=LARGEST_FLEET, description="No two of one name."
    )
    profile: str | None = Field(
        None, max_length=300, description="A profile of /healthz; left out: the first."
    )

    def fleet(self) -> Fleet:
        """The rows as a fleet.

        Raises:
            InputError: A row cannot be used, or a name stands twice.
        """
        return Fleet([Adapter(**row.model_dump()) for row in self.adapters])


class PackRequest(FleetMessage):
    """What `lorapack pack` takes."""

    slo: Literal["interactive", "batch", "papers"] = "interactive"
    ttft_p99_ms: float | None = Field(None, gt=0, le=1e9)
    rate_headroom: float = Field(0.1, ge=0, le=10)
    gpus: Gpus | None = Field(None, description="GPUs to use at most.")
    objective: Literal["gpus", "latency", "cost"] = "gpus"
    method: str = Field("greedy", json_schema_extra={"enum": list(METHODS)})
    strict: bool = False
    seed: Seed = 0
    n_seeds: Seeds = Field(3, description="Fresh seeds that verify every GPU.")


class PredictRequest(FleetMessage):
    """One GPU that holds these adapters."""

    max_loras: Slots | None = Field(
        None, description="LoRA slots; left out: one an adapter, if they fit."
    )
    max_lora_rank: SlotRank | None = Field(
        None, description="Left out: the largest rank, rounded up."
    )


class Prediction(BaseModel):
    """What the predictor says of one GPU."""

    profile: str
    max_loras: int = Field(description="Slots that were assumed.")
    max_lora_rank: int
    targets: dict[str, float | None] = Field(description="Name (with its unit) -> value.")


class Plan(BaseModel):
    """plan.json, as `lorapack pack -o` writes it."""

    model_config = ConfigDict(extra="allow")

    n_gpus: int
    lower_bound: float
    slo: str
    verified: bool
    gpus: list[dict[str, Any]]
    exempt: list[dict[str, Any]]


class Health(BaseModel):
    """Whether the service can answer."""

    status: Literal["ok"]
    version: str
    profiles: list[str]
    predictors: list[str] = Field(description="Profiles that /predict can answer for.")


class Problem(BaseModel):
    """Why there is no answer."""

    error: Literal["no_profile", "infeasible", "no_predictor", "busy", "too_large"]
    detail: str
    mend: str | None = None
