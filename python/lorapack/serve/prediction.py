"""One GPU asked of the predictor that belongs to a profile."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorapack.errors import InputError
from lorapack.predictor.features import features_of
from lorapack.predictor.predictor import Predictor
from lorapack.profile.profile import Profile
from lorapack.serve.messages import Prediction, PredictRequest
from lorapack.twin.scenario import Scenario


class NoPredictorError(Exception):
    """There is no trained model for the profile that was asked for."""


@dataclass(frozen=True)
class Predictors:
    """The models the service may ask: given ones first, then those that come with lorapack.

    Attributes:
        given: Models that `lorapack train` wrote, as loaded.
    """

    given: tuple[Predictor, ...] = ()

    def of(self, profile: Profile) -> Predictor:
        """The model of a profile; it may be asked from many threads.

        Args:
            profile: Model, GPU and engine.

        Returns:
            The predictor.

        Raises:
            NoPredictorError: No model was trained for the profile.
        """
        for model in self.given:
            if model.profile.name == profile.name:
                return model
        try:
            return Predictor.load(profile)
        except InputError as error:
            raise NoPredictorError(f"no predictor for {profile.name}: {error.mend}") from error

    def has(self, profile: Profile) -> bool:
        """Whether `/predict` can answer for a profile.

        Args:
            profile: Model, GPU and engine.

        Returns:
            True where a model is there.
        """
        try:
            self.of(profile)
        except NoPredictorError:
            return False
        return True

    def predict(self, profile: Profile, request: PredictRequest) -> Prediction:
        """Asks the predictor about one GPU.

        Args:
            profile: Model, GPU and engine.
            request: The adapters and the slots.

        Returns:
            Its targets.

        Raises:
            InputError: The adapters or slots cannot be used.
            Infeasible: The engine would not start with these slots.
            NoPredictorError: No model was trained for the profile.
        """
        model = self.of(profile)
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
