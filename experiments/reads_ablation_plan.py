"""The arms of `experiments.reads_ablation`: a policy, and the memory beside it."""

from typing import Any, NamedTuple

from experiments.reads_plan import COUNTS
from memjax.agents.reframe.expert_memory import Kind


class Arm(NamedTuple):
    """A policy, and the memory beside it."""

    title: str
    policy: str = "backbone"  # or "filtered", "wide", or one of `MIXED`
    kind: Kind | None = None  # of the memory; None: there is none
    handover: Any = "blend"
    content: Any = "latents"
    everywhere: bool = False  # trusted at any distance: the memory alone
    poor: bool = False
    emptied: bool = False
    promise: float = 0.0
    spoiled: bool = False  # the bank holds a poor episode beside every two of its experts
    noise: float = 0.03  # of the clone's training
    longer: int = 1  # times its updates
    segment: int = 0  # the bank holds so many steps from the beginning of each episode, 0: all
    counts: tuple[int, ...] = COUNTS


MIXED = {"mixed_steps": 0.0, "mixed10": 0.1, "mixed50": 0.5}  # share of experts in a batch, 0: by steps
_DEFAULT: Any = {"kind": "clone", "handover": "switch", "promise": 0.5}
ARMS = {
    "backbone": Arm("backbone: return-conditioned, poor data"),
    "filtered": Arm("filtered BC: best tenth of the poor data", "filtered"),
    "wide": Arm("backbone with as many parameters as memory and backbone together", "wide"),
    "mixed_steps": Arm("backbone, experts mixed in by their number of steps", "mixed_steps"),
    "mixed10": Arm("backbone, experts as 10 % of each batch", "mixed10"),
    "mixed50": Arm("backbone, experts as half of each batch", "mixed50"),
    "bc": Arm("BC of the bank, noise .03, mean of five networks", kind="clone", everywhere=True),
    "bc_gated": Arm("memory with the clone's action, blend", kind="clone"),
    "bc_switch": Arm("memory with the clone's action, switch", kind="clone", handover="switch"),
    "default": Arm("memory with the clone's action, promise: the default", **_DEFAULT),
    "nearest": Arm("nearest entry's action, everywhere", kind="gate", everywhere=True),
    "gate": Arm("memory with the nearest action, blend", kind="gate"),
    "switch": Arm("memory with the nearest action, switch", kind="gate", handover="switch"),
    "emptied": Arm("emptied bank", kind="gate", emptied=True),
    "shuffled": Arm(
        "clone of a shuffled bank, switch", "backbone", "clone", "switch", "shuffled", counts=(2,)
    ),
    "constant": Arm(
        "clone of a constant bank, switch", "backbone", "clone", "switch", "constant", counts=(2,)
    ),
    "poor_bank": Arm("clone of poor episodes, switch", "backbone", "clone", "switch", poor=True, counts=(2,)),
    "default_shuffled": Arm("default, shuffled bank", content="shuffled", counts=(2,), **_DEFAULT),
    "default_constant": Arm("default, constant bank", content="constant", counts=(2,), **_DEFAULT),
    "default_poor": Arm("default, bank of poor episodes", poor=True, counts=(2,), **_DEFAULT),
    "segments": Arm(
        "default, bank of the first 300 steps of each episode", segment=300, counts=(5,), **_DEFAULT
    ),
    "spoiled": Arm("default, a third of the bank's episodes poor", spoiled=True, counts=(2,), **_DEFAULT),
    "bc_spoiled": Arm("BC of that bank", kind="clone", everywhere=True, spoiled=True, counts=(2,)),
    "bc_noisier": Arm("BC of the bank, noise .1", kind="clone", everywhere=True, noise=0.1, counts=(5,)),
    "noisier": Arm("default, clone with noise .1", noise=0.1, counts=(5,), **_DEFAULT),
    "bc_longer": Arm(
        "BC of the bank, five times the updates", kind="clone", everywhere=True, longer=5, counts=(5,)
    ),
    "longer": Arm("default, clone of five times the updates", longer=5, counts=(5,), **_DEFAULT),
    "bc_segments": Arm("BC of the bank of segments", kind="clone", everywhere=True, segment=300, counts=(5,)),
}
