"""What `experiments.partial_experts` compares: how much is shown, the arms, and the sizes of a run."""

from typing import NamedTuple

from experiments.small_policies import Training

SEEDS = [0, 1, 2, 3, 4]
POOR_EPISODES, TRAJECTORIES = 25, 2  # for each goal, and for each goal that is shown
PLAYED = 6  # episodes of each goal and arm
TOP = 0.1  # share of the poor episodes that filtered cloning learns from
NOISE = 0.03  # of a strong clone
BLOCK = 2_000  # steps at once
BANKED = 3  # poor episodes of each goal in a bank beside the experts
LONGER, LONGEST = 4, 16  # times the updates of longer versions of an arm,
WIDER = 2  # and times the width of its wider one
MANY = 100  # goals
SOME = 8_000  # poor steps, evenly spaced, that tell which return is usual where


class Setting(NamedTuple):
    """What the experts show."""

    name: str
    share: float  # of the goals
    last_half: bool = False  # of each trajectory


SETTINGS = (
    Setting("1/8", 0.125),
    Setting("1/4", 0.25),
    Setting("1/2", 0.5),
    Setting("all", 1.0),
    Setting("last half", 1.0, last_half=True),
)


class Arm(NamedTuple):
    """A policy, and how a memory advises it."""

    policy: str  # of `train_policies`
    handover: str = ""  # "" : no memory
    cloned: bool = False  # the memory gives the clone's action, not that of the nearest entry
    content: str = "latents"
    everywhere: bool = False  # trusted at any distance
    emptied: bool = False
    poor: bool = False  # the bank holds a poor episode of each of the same goals
    compared: bool = False  # no trust in entries that earned less than the poor data do there
    contest: bool = False  # trusted as far as `contest.py` says, in place of the quantile
    fixed: bool = False  # asked for the experts' relabelled return, 0, at every step
    shown: bool = False  # the policy is shown the nearest steps of a bank, see `partial_predictive.py`
    unread: bool = False  # and that bank is emptied when it plays


ARMS = {
    "backbone": Arm("backbone"),
    "filtered": Arm("filtered"),
    "mixed10": Arm("mixed10"),
    "mixed50": Arm("mixed50"),
    "filtered50": Arm("filtered50"),
    "weighted": Arm("weighted"),
    "relabelled": Arm("relabelled", fixed=True),
    "predictive": Arm("predictive", shown=True),
    "bc": Arm("bc"),
    "nearest": Arm("filtered", "blend", everywhere=True),
    "gate_bc": Arm("filtered", "blend", cloned=True),
    "switch_bc": Arm("filtered", "switch", cloned=True),
    "contest": Arm("filtered", "blend", cloned=True, contest=True),
    "switch_contest": Arm("filtered", "switch", cloned=True, contest=True),
    "backbone_bc": Arm("backbone", "blend", cloned=True),
    "mixed_bc": Arm("filtered50", "blend", cloned=True),
    "gate": Arm("filtered", "blend"),
    "shuffled": Arm("filtered", "blend", content="shuffled"),
    "constant": Arm("filtered", "blend", content="constant"),
    "poor_bank": Arm("filtered", "switch", poor=True),
    "poor_compared": Arm("filtered", "switch", poor=True, compared=True),
    "emptied": Arm("filtered", "blend", emptied=True),
    "bc_long": Arm("bc_long"),
    "filtered50_long": Arm("filtered50_long"),
    "filtered50_longest": Arm("filtered50_longest"),
    "filtered50_wide": Arm("filtered50_wide"),
    "read": Arm("read", shown=True),
    "read_long": Arm("read_long", shown=True),
    "read_experts": Arm("read_experts", shown=True),
    "read_poor": Arm("read_poor", shown=True),
    "read_alone": Arm("read_alone", shown=True),
    "read_shuffled": Arm("read_shuffled", shown=True),
    "read_constant": Arm("read_constant", shown=True),
    "read_emptied": Arm("read", shown=True, unread=True),
}


class Sizes(NamedTuple):
    """Of a run."""

    training: Training = Training()
    poor: int = POOR_EPISODES
    played: int = PLAYED
    quantile: float = 0.1


def sizes_of(contexts: int, quantile: float) -> Sizes:
    """Those of a family; of many goals each has fewer episodes."""
    usual = Sizes(quantile=quantile)
    return usual._replace(poor=10, played=2) if contexts > MANY else usual
