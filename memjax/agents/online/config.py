"""The sections of a config that agents learning by acting share: PPO, its intrinsic reward, imitation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from memjax.schema import (
    Fraction,
    Later,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UserPath,
    Widths,
)
from memjax.types import ConfigError, within


@dataclass(frozen=True)
class NoveltyConfig:
    """Intrinsic reward. `kind` "none" switches all of it off."""

    kind: Literal["none", "rnd", "coarse", "fine", "coarse_fine"]
    fine: Literal["hoyer", "l1", "l0", "kl", "active_set", "frozen_set", "staged_set"]
    beta_coarse: NonNegativeFloat
    beta_fine: NonNegativeFloat
    encoder: Literal["mlp", "conv"]
    widths: Widths  # hidden layers of the autoencoder, or of RND's networks
    latent: PositiveInt  # code width, or RND's feature width
    sparsity: NonNegativeFloat  # lambda_s, weight of the mean absolute code
    learning_rate: PositiveFloat
    sample_share: Fraction  # share of the rollout that is trained on
    minibatch: PositiveInt
    standardize: bool  # per-pixel running mean and std, clipped to +-5
    standardize_rollouts: NonNegativeInt  # rollouts that those statistics are taken from; 0: all
    discount: Fraction  # gamma_int
    # The intrinsic stream does not end with an episode. It goes on with the value of the last state,
    # or with that of the state in which the next episode begins (as in the code of Burda et al. 2018).
    after_end: Annotated[Literal["last", "next"], Later("last")]
    combine: Annotated[Literal["sum", "product", "rank"], Later("sum")]  # of "coarse" and "fine"
    stage_rollouts: Annotated[PositiveInt, Later(3)]  # until the code of "staged_set" is frozen anew
    stage_sample: Annotated[PositiveInt, Later(4096)]  # past frames that carry its counts over
    stage_rate: Annotated[PositiveFloat, Later(3e-2)]  # of Adam, on its code
    stage_sparsity: Annotated[NonNegativeFloat, Later(0.3)]  # weight of its absolute code, per input number

    @property
    def staged(self) -> bool:
        """Whether the fine bonus counts sets of a code that is frozen in stages."""
        return self.fine == "staged_set" and self.kind in ("fine", "coarse_fine")

    def check(self) -> None:
        """Raises ConfigError where fields contradict each other."""
        if self.combine != "sum" and self.kind != "coarse_fine":
            raise ConfigError("combine", f"'sum', as kind is {self.kind!r}", repr(self.combine))
        if self.combine == "rank" and self.beta_coarse + self.beta_fine == 0:
            raise ConfigError("combine", "'sum' or 'product', as both weights are 0", "'rank'")
        if self.kind in ("fine", "coarse_fine", "coarse") and self.latent < 2:
            raise ConfigError(
                "latent", "int >= 2 (sparsity of a code of one unit means nothing)", self.latent
            )


@dataclass(frozen=True)
class PPOConfig:
    """PPO's part of a config, the same for PPO, PPO+RND, PPO+SIL and AdaMemento."""

    rollout_steps: PositiveInt  # T
    epochs: PositiveInt
    minibatches: PositiveInt
    # Groups of environments; every minibatch takes as many steps of each. Where the number of devices divides
    # it, they keep the steps of their own environments. 1: minibatches are drawn from all steps at once.
    env_groups: Annotated[PositiveInt, Later(1)]
    learning_rate: PositiveFloat
    anneal_updates: NonNegativeInt  # linear decay to 0 over this many rollouts; 0: constant
    max_grad_norm: PositiveFloat
    clip: PositiveFloat
    discount: Fraction  # gamma_ext
    gae_decay: Fraction  # lambda
    entropy_cost: NonNegativeFloat
    value_cost: NonNegativeFloat
    encoder: Literal["mlp", "conv"]
    shared_torso: bool
    widths: Widths
    activation: Literal["tanh", "relu"]
    normalize_observations: bool  # per number or pixel, by running mean and std, clipped to +-10
    scale_rewards: bool  # by the running std of the discounted return, clipped to +-10
    extrinsic_weight: NonNegativeFloat  # c_ext
    intrinsic_weight: NonNegativeFloat  # c_int
    fade_updates: Annotated[
        NonNegativeInt, Later(0)
    ]  # rollouts until c_int is 0, falling linearly; 0: it stays
    offpolicy: Literal["mask", "is", "bc"]  # what PPO makes of actions it did not choose
    clone_weight: NonNegativeFloat  # eta of "bc"
    reference_every: NonNegativeInt  # every so-many-th environment is a reference's without bonus; 0: none
    constraint_rate: PositiveFloat  # of Adam, on the multiplier that the reference sets
    novelty: NoveltyConfig

    def check(self) -> None:
        """Raises ConfigError where fields contradict each other."""
        if self.fade_updates and self.novelty.kind == "none":
            raise ConfigError("fade_updates", "0, as there is no intrinsic reward", self.fade_updates)
        if self.novelty.staged and self.rollout_steps < 2:
            raise ConfigError("rollout_steps", "at least 2, as 'staged_set' learns from pairs of frames", 1)
        if self.reference_every == 1:
            raise ConfigError("reference_every", "0 or int >= 2, so that an explorer is left", 1)
        if self.reference_every and self.env_groups > 1:
            raise ConfigError(
                "env_groups", "1 with reference_every, which cuts the environments itself", self.env_groups
            )
        if self.reference_every and self.novelty.kind == "none":
            expected = "0, as there is no intrinsic reward to hold down"
            raise ConfigError("reference_every", expected, self.reference_every)

    def check_batch(self, num_envs: int) -> None:
        """Raises ConfigError unless minibatches divide the rollout, and the reference's part of it."""
        if self.reference_every:
            if num_envs % self.reference_every:
                expected = f"a divisor of env.num_envs ({num_envs})"
                raise ConfigError("reference_every", expected, self.reference_every)
            share = num_envs // self.reference_every * self.rollout_steps
            if share % self.minibatches:
                expected = f"a divisor of the {share} steps that the reference takes in a rollout"
                raise ConfigError("minibatches", expected, self.minibatches)
        if num_envs % self.env_groups:
            raise ConfigError("env_groups", f"a divisor of env.num_envs ({num_envs})", self.env_groups)
        steps = num_envs * self.rollout_steps
        if steps // self.env_groups % self.minibatches and steps % self.minibatches == 0:
            expected = f"such that minibatches ({self.minibatches}) divides the {steps} steps of all over it"
            raise ConfigError("env_groups", expected, self.env_groups)
        if steps % self.minibatches:
            expected = (
                f"a divisor of env.num_envs * rollout_steps = {num_envs} * {self.rollout_steps} = {steps}"
            )
            raise ConfigError("minibatches", expected, self.minibatches)


@dataclass(frozen=True)
class ImitationConfig:
    """The memory of SIL, and how it is learned from."""

    capacity: PositiveInt  # steps
    episode_steps: PositiveInt  # longer episodes keep their last steps
    episodes_per_update: PositiveInt
    minibatches: PositiveInt  # per rollout
    minibatch: PositiveInt  # steps
    weight: NonNegativeFloat
    value_weight: NonNegativeFloat  # beta_sil
    demonstrations: Annotated[UserPath, Later("")]  # a file that `memjax demonstrate` made; "": none
    num_demonstrations: Annotated[NonNegativeInt, Later(0)]  # its first episodes; 0: all

    def check(self) -> None:
        """Raises ConfigError where fields contradict each other."""
        if self.num_demonstrations and not self.demonstrations:
            raise ConfigError("num_demonstrations", "0 without demonstrations", self.num_demonstrations)
        need = self.episode_steps * self.episodes_per_update
        if need > self.capacity:
            raise ConfigError(
                "capacity", f"at least episode_steps * episodes_per_update = {need}", self.capacity
            )


@dataclass(frozen=True)
class SILConfig:
    """PPO's section and the imitation's."""

    ppo: PPOConfig
    imitation: ImitationConfig

    @property
    def rollout_steps(self) -> int:
        """T, the steps of a rollout."""
        return self.ppo.rollout_steps

    def check_batch(self, num_envs: int) -> None:
        """Raises ConfigError unless the rollout divides into the minibatches."""
        check_ppo_batch(self.ppo, num_envs)


def check_ppo_batch(ppo: PPOConfig, num_envs: int) -> None:
    """Raises ConfigError, its field within the section `ppo`, unless the rollout divides into minibatches."""
    with within("ppo."):
        ppo.check_batch(num_envs)
