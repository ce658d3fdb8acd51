"""AdaMemento's part of a config: its sections, and what contradicts within and between them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from memjax.agents.online.config import PPOConfig, check_ppo_batch
from memjax.schema import (
    Between,
    Fraction,
    Later,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UserPath,
)
from memjax.types import ConfigError


@dataclass(frozen=True)
class BanksConfig:
    """The two memories. Switching `enabled` off leaves PPO with its intrinsic reward, step by step."""

    enabled: bool
    failures: bool  # False: no failure bank; the reflection network tells successes from random actions
    capacity: PositiveInt  # steps, each bank
    episode_steps: PositiveInt  # L: longer episodes keep their last L steps
    # Of a longer success the L steps up to its last reward above 0 instead, if it had one.
    until_reward: Annotated[bool, Later(False)]
    episodes_per_update: PositiveInt  # E: at most so many enter each bank per rollout
    last_frame: bool  # images: store, and show to P and C, the newest plane only
    # Rollouts with a success over which c_int falls to 0, linearly; 0: it stays.
    fade_rollouts: Annotated[NonNegativeInt, Later(0)]
    key_dim: NonNegativeInt  # width of a random projection of the observation; 0: the observation itself
    demonstrations: UserPath  # a file that `memjax demonstrate` made; "": none
    num_demonstrations: NonNegativeInt  # its first episodes; 0: all

    def check(self) -> None:
        """Raises ConfigError where fields contradict each other."""
        if self.demonstrations and not self.enabled:
            raise ConfigError("demonstrations", "none, as there is no memory", repr(self.demonstrations))
        if self.num_demonstrations and not self.demonstrations:
            raise ConfigError("num_demonstrations", "0 without demonstrations", self.num_demonstrations)
        need = self.episode_steps * self.episodes_per_update
        if self.enabled and need > self.capacity:
            expected = f"at least episode_steps * episodes_per_update = {need}"
            raise ConfigError("capacity", expected, self.capacity)


@dataclass(frozen=True)
class LabelConfig:
    """Thresholds over the returns of the last `window` episodes; unused where the environment has a goal."""

    window: PositiveInt
    min_count: PositiveInt  # episodes in the window before anything is labelled
    success_quantile: Fraction
    failure_quantile: Fraction
    keep_quantile: Fraction  # successes below it are forgotten
    min_return: float  # a success is above this, whatever the window says
    length_discount: Fraction  # worth of an episode = return * length_discount ** length

    def check(self) -> None:
        """Raises ConfigError unless failure <= keep <= success."""
        if not self.failure_quantile <= self.keep_quantile <= self.success_quantile:
            ends = f"[{self.failure_quantile}, {self.success_quantile}]"
            expected = f"within [failure_quantile, success_quantile] = {ends}"
            raise ConfigError("keep_quantile", expected, self.keep_quantile)
        if self.min_count > self.window:
            raise ConfigError("min_count", f"at most window ({self.window})", self.min_count)


@dataclass(frozen=True)
class ReflectionConfig:
    """How the prediction network P and the reflection network C learn."""

    prediction: Literal["network", "nearest"]  # P is a network, or the actions of the nearest successes
    neighbours: PositiveInt  # K of "nearest"
    weighting: Literal["uniform", "return"]  # "return": by outcome_discount ** to_go
    label_smoothing: Fraction
    confidence: Literal["bce", "value"]  # C says success or failure, or regresses the discounted outcome
    fail_credit: Fraction  # a failed episode's step weighs fail_credit ** steps to its end; 1: all alike
    learning_rate: PositiveFloat
    minibatches: PositiveInt  # per rollout, for P and for C
    minibatch: PositiveInt  # steps
    failures_per_success: Annotated[PositiveInt, Later(1)]  # in a minibatch of C; 1: half from each bank
    cloned_share: Fraction  # most of a minibatch that may come from episodes the memory itself played
    holdout: NonNegativeInt  # every so-many-th episode is kept for calibration; 0: none
    calibrate_every: NonNegativeInt  # rollouts between calibrations of C; 0: never
    outcome_discount: Fraction  # of "value"
    weight_decay: NonNegativeFloat
    # Of what the policy learns from the success bank; 0: nothing.
    imitation_weight: Annotated[NonNegativeFloat, Later(0.0)]
    imitation_minibatches: Annotated[PositiveInt, Later(4)]  # of `minibatch` steps, per rollout


@dataclass(frozen=True)
class GateConfig:
    """The ensemble: when the memory's action is executed."""

    enabled: Annotated[bool, Later(True)]  # False: never, and P and C are neither asked nor trained
    kappa: Fraction  # execute a_m where the confidence is above
    adaptive: bool  # raise kappa so that at most max_share of the steps are the memory's
    max_share: Fraction
    sample: bool  # a_m ~ P(a | s) in place of its mode
    min_episodes: NonNegativeInt  # in each bank, before the gate may open
    min_updates: NonNegativeInt  # gradient steps of P and C, before the gate may open
    advantage: bool  # execute a_m only where it is not estimated to gain less than the policy's action
    margin: NonNegativeFloat  # of "advantage", standard deviations of the advantages
    measured: bool  # help only so large a share of the episodes as help has paid in
    least_share: Annotated[float, Between(0.0, 0.5)]  # of episodes with, and of episodes without help
    most_share: Fraction  # of episodes with help, at most
    forget: Fraction  # what the returns of "measured" weigh after one more rollout

    def check(self) -> None:
        """Raises ConfigError unless least_share <= most_share, and for conditions of a gate that is off."""
        for name in ("adaptive", "advantage", "measured"):
            if getattr(self, name) and not self.enabled:
                raise ConfigError(name, "False, as the gate is off", True)
        if self.most_share < self.least_share:
            raise ConfigError("most_share", f"at least least_share ({self.least_share})", self.most_share)


@dataclass(frozen=True)
class AdaMementoConfig:
    """PPO's section, and the parts that AdaMemento adds."""

    ppo: PPOConfig
    bank: BanksConfig
    label: LabelConfig
    reflection: ReflectionConfig
    gate: GateConfig

    @property
    def rollout_steps(self) -> int:
        """T, the steps of a rollout."""
        return self.ppo.rollout_steps

    def check(self) -> None:
        """Raises ConfigError where the sections contradict each other."""
        if self.bank.fade_rollouts and self.ppo.novelty.kind == "none":
            raise ConfigError(
                "bank.fade_rollouts", "0, as there is no intrinsic reward", self.bank.fade_rollouts
            )
        if self.bank.fade_rollouts and not self.bank.enabled:
            raise ConfigError("bank.fade_rollouts", "0, as there is no memory", self.bank.fade_rollouts)
        if self.bank.fade_rollouts and self.ppo.fade_updates:
            expected = "0 with ppo.fade_updates, which lets the bonus fade from the first rollout on"
            raise ConfigError("bank.fade_rollouts", expected, self.bank.fade_rollouts)
        used = self.gate.enabled or self.reflection.imitation_weight
        if self.bank.demonstrations and self.bank.enabled and not used:
            expected = "none, as the memory neither acts (gate.enabled) nor is imitated (imitation_weight)"
            raise ConfigError("bank.demonstrations", expected, repr(self.bank.demonstrations))
        if self.reflection.failures_per_success >= self.reflection.minibatch:
            expected = f"less than {self.reflection.minibatch}, a minibatch"
            got = self.reflection.failures_per_success
            raise ConfigError("reflection.failures_per_success", expected, got)
        if self.reflection.imitation_weight and self.bank.last_frame:
            expected = "0 with bank.last_frame, as the policy sees more than the bank stores"
            raise ConfigError("reflection.imitation_weight", expected, self.reflection.imitation_weight)
        if self.reflection.neighbours > self.bank.capacity:
            expected = f"at most bank.capacity ({self.bank.capacity})"
            raise ConfigError("reflection.neighbours", expected, self.reflection.neighbours)

    def check_batch(self, num_envs: int) -> None:
        """Raises ConfigError where the rollout does not divide, or has fewer steps than episodes to take."""
        check_ppo_batch(self.ppo, num_envs)
        steps = num_envs * self.rollout_steps
        if self.bank.episodes_per_update > steps:
            expected = f"at most the {steps} steps of a rollout"
            raise ConfigError("bank.episodes_per_update", expected, self.bank.episodes_per_update)
