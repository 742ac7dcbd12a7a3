"""A closed loop replayed from the tokens of its steps."""

from __future__ import annotations

import numpy as np

from lorapack.fidelity.calibrate.step_logs import replay_closed_loop


def test_two_waves_of_three_requests_by_hand() -> None:
    # Three requests of 5 prompt tokens and 3 steps: 15, 3, 3; then the next three at once.
    tokens = np.array([15, 3, 3, 15, 3, 3])
    requests, new, context, exact = replay_closed_loop(tokens, output_tokens=3)
    assert requests.tolist() == [3, 3, 3, 3, 3, 3]
    assert new.tolist() == [3, 0, 0, 3, 0, 0]
    # After the first step each holds its prompt's 5 tokens, then one more a step.
    assert context.tolist() == [0, 15, 18, 0, 15, 18]
    assert exact.all()


def test_requests_that_come_in_over_two_steps() -> None:
    tokens = np.array([10, 7, 3, 1])
    requests, new, context, exact = replay_closed_loop(tokens, output_tokens=3)
    assert new.tolist() == [2, 1, 0, 0]
    assert requests.tolist() == [2, 3, 3, 1]
    assert context.tolist() == [0, 10, 17, 6]
    assert exact.all()


def test_tokens_that_no_closed_loop_explains_are_marked() -> None:
    *_, exact = replay_closed_loop(np.array([10, 2, 3, 2]), output_tokens=9)
    assert exact.tolist() == [True, True, False, False]
