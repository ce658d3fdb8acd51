"""The config section of Re:Frame and of the Decision Transformer that it extends."""

from dataclasses import dataclass
from typing import Annotated, Literal

from memjax.agents.reframe.advice import TrustConfig
from memjax.agents.reframe.autoencoder import AutoencoderConfig
from memjax.agents.reframe.gains import GainsConfig
from memjax.agents.reframe.read_out import ReadOutConfig
from memjax.networks.transformer import TransformerSizes
from memjax.schema import (
    Between,
    Fraction,
    Later,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from memjax.types import ConfigError


@dataclass(frozen=True)
class TransformerConfig:
    """The Decision Transformer."""

    context: PositiveInt  # K
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    max_steps: PositiveInt  # of an episode
    dropout: Annotated[float, Between(0, 0.99)]
    compute: Literal["float32", "bfloat16"]  # type of products and activations
    # "scale": the return to go scales and shifts the observation's embedding, beside its own token
    returns: Annotated[Literal["token", "scale"], Later("token")]
    times: Annotated[bool, Later(True)]  # the policy is told the number of the step

    def check(self) -> None:
        """Raises ConfigError where the heads do not divide the width."""
        if self.width % self.heads:
            raise ConfigError("heads", f"a divisor of width ({self.width})", self.heads)

    @property
    def sizes(self) -> TransformerSizes:
        """The same for the network."""
        return TransformerSizes(*(getattr(self, name) for name in TransformerSizes._fields))


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW behind a global-norm clip, the rate rising linearly at first and, if asked, falling linearly."""

    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    warmup: NonNegativeInt  # updates until the full rate
    decay: Annotated[NonNegativeInt, Later(0)]  # update at which the rate has fallen to zero; 0: it stays


@dataclass(frozen=True)
class ExpertBankConfig:
    """What the memory holds."""

    trajectories: PositiveInt  # of the experts; fewer at hand is an error
    capacity: PositiveInt  # steps, a hard limit
    content: Literal["latents", "shuffled", "constant"]  # what a found entry gives; two are controls


@dataclass(frozen=True)
class ReadConfig:
    """How the policy reads the bank.

    Kind "latent" is what the rest of the section describes. Of the other kinds, `expert_memory.py`,
    `k` entries make an action and `method` finds them; the rest does not matter.
    """

    kind: Literal["latent", "gate", "corrected", "difference", "clone"]
    query: Literal["hidden", "ae", "hidden+ae"]
    similarity: Literal["dot", "cosine"]
    k: NonNegativeInt  # entries read; 0: all
    fusion: Literal["late", "concat", "early", "prefix"]
    dropout: Fraction  # share of reads that are dropped in training
    dropout_unit: Literal["step", "window"]
    random_neighbors: Fraction  # share of the entries read that are replaced by random ones in training
    exclude_own: bool  # never read the trajectory that a window is of; numbers must be those of the data
    method: str  # of `memjax.memory.nearest`
    recall: NonNegativeInt  # k1: choose k of so many by similarity and utility (MemRL's rule); 0: off
    utility_weight: Fraction  # lambda of that choice
    utility_step: Fraction  # alpha of the update of utilities

    def check(self) -> None:
        """Raises ConfigError where options exclude each other."""
        if self.fusion in ("early", "prefix") and self.query != "ae":
            raise ConfigError("query", f"'ae' with fusion '{self.fusion}', which reads first", self.query)
        if self.recall and self.recall < self.k:
            raise ConfigError("recall", f"0, or at least k ({self.k})", self.recall)
        for name in ("random_neighbors", "recall") if self.k == 0 else ():
            if getattr(self, name):
                raise ConfigError(name, "0 where all entries are read (k = 0)", getattr(self, name))
        if self.k == 0 and self.fusion == "prefix":
            raise ConfigError("k", "at least 1 with fusion 'prefix': one token per entry", 0)


@dataclass(frozen=True)
class ReframeConfig:
    """Re:Frame, the Decision Transformer ("null"), and that with as many parameters ("parameters")."""

    memory: Literal["associative", "null", "parameters"]
    batch: PositiveInt  # windows of an update
    return_scale: PositiveFloat
    targets: tuple[float, ...]  # returns to ask for at evaluation; the first is the main one
    evaluate_emptied: bool  # evaluate each target with an emptied bank as well
    transformer: TransformerConfig
    optimizer: OptimizerConfig
    autoencoder: AutoencoderConfig
    bank: ExpertBankConfig
    read: ReadConfig
    trust: TrustConfig  # of all kinds of reads but "latent"
    gains: GainsConfig  # of kind "corrected", and of corrected labels
    read_out: ReadOutConfig  # of kinds "difference" and "clone"

    @property
    def rollout_steps(self) -> int:
        """An offline agent takes no steps; one update is one iteration."""
        return 1

    @property
    def context(self) -> int:
        """K, steps of a window."""
        return self.transformer.context

    @property
    def longest_episode(self) -> int:
        """Steps of the longest episode that it can tell the time in."""
        return self.transformer.max_steps

    def check(self) -> None:
        """Raises ConfigError where there is nothing to ask for."""
        if not self.targets:
            raise ConfigError("targets", "at least one return", "()")
