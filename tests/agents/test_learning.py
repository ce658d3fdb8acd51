"""What the library is for, as a threshold: minutes long, so not in every run of the tests."""

from pathlib import Path

import numpy as np
import pytest

from memjax.config_file import load_config
from memjax.training.config import resolve
from memjax.training.train import build

CONFIG = Path(__file__).parents[2] / "memjax" / "configs" / "four_rooms.py"


def final_success(variant, policy):
    """Evaluation success of five seeds after 100,000 steps."""
    source = f"{CONFIG}:{variant}" if variant else str(CONFIG)
    config = resolve(
        load_config(source, [("num_seeds", "5"), ("seed", "100"), ("run.total_steps", "100000")])
    )
    program = build(config)
    state = program.init()
    for _ in range(program.iterations // config.run.log_every):
        state, _ = program.chunk(state)
    return program.evaluate(state, 64)[f"eval/{policy}/success"]


@pytest.mark.slow
def test_a_memory_solves_what_plain_ppo_mostly_does_not():
    """Acceptance test 6, on seeds the settings were chosen on: 4 of 5 in 100,000 steps, against 2 of 5."""
    with_memory, plain = final_success("", "ensemble"), final_success("ppo", "policy")
    assert np.sum(with_memory >= 0.9) >= 4, with_memory
    assert np.sum(plain >= 0.9) <= 2, plain
