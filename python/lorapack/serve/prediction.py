"""One GPU asked of the predictor that belongs to a profile."""

from __future__ import annotations

import functools
import math

from lorapack.errors import InputError
from lorapack.predictor.features import features_of
from lorapack.predictor.predictor import Predictor
from lorapack.profile.profile import Profile
from lorapack.serve.messages import Prediction, PredictRequest
from lorapack.twin.scenario import Scenario


class NoPredictorError(Exception):
    """There is no trained model for the profile that was asked for."""


def predict(profile: Profile, request: PredictRequest) -> Prediction:
    """Asks the predictor about one GPU.

    Args:
        profile: Model, GPU and engine.
        request: The adapters and the slots.

    Returns:
        Its targets.

    Raises:
        InputError: The adapters or slots cannot be used.
        NoPredictorError: No model was trained for the profile.
    """
    model = predictor_of(profile)
    scenario = Scenario(
        profile,
        request.fleet(),
        max_loras=request.max_loras,
        max_lora_rank=request.max_lora_rank,
        warm=True,
    )
    values = model.predict(features_of(scenario))[0]
    return Prediction(
        profile=profile.name,
        max_loras=scenario.engine.max_loras,
        max_lora_rank=scenario.engine.max_lora_rank,
        targets={
            name: float(value) if math.isfinite(value) else None
            for name, value in zip(model.targets, values, strict=True)
        },
    )


@functools.cache
def predictor_of(profile: Profile) -> Predictor:
    """The profile's model, loaded once; it may be asked from many threads.

    Args:
        profile: Model, GPU and engine.

    Returns:
        The predictor.

    Raises:
        NoPredictorError: No model was trained for the profile.
    """
    try:
        return Predictor.load(profile)
    except InputError as error:
        raise NoPredictorError(f"no predictor for {profile.name}: {error}") from error


def has_predictor(profile: Profile) -> bool:
    """Whether `/predict` can answer for a profile.

    Args:
        profile: Model, GPU and engine.

    Returns:
        True where a model is there.
    """
    try:
        predictor_of(profile)
    except NoPredictorError:
        return False
    return True
