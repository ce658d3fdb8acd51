"""Seals of an offline run: sha256 of the data that it learns from and of the bank that it retrieves from.

The train state carries both. A run can only be continued with the data that it began with, and only be
evaluated with the bank that it was trained with, unless the user names another one.
"""

import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from memjax.agents.reframe.bank import content_hash
from memjax.data.trajectories import Trajectories, digest
from memjax.memory import MemoryState
from memjax.runs.digest import whole_on_host
from memjax.types import ConfigError, PyTree

SIZE = 32  # bytes of a sha256


def data_seal(parts: Sequence[Trajectories | None]) -> np.ndarray:
    """[32] u8, sha256 over every array of the datasets that a run learns from; None stands for none."""
    total = hashlib.sha256()
    for part in parts:
        total.update(b"none;" if part is None else f"{digest(part)};".encode())
    return _bytes(total.hexdigest())


def bank_seals(agent: PyTree) -> np.ndarray:
    """[R, 32] u8, sha256 of the bank of each of R seeds; zeros where the agent has none."""
    bank = getattr(agent, "bank", None)
    seeds = jax.tree.leaves(agent)[0].shape[0]
    if not isinstance(bank, MemoryState):
        return np.zeros((seeds, SIZE), np.uint8)
    on_host = jax.tree.map(whole_on_host, bank)
    return np.stack(
        [_bytes(content_hash(jax.tree.map(lambda x, s=seed: x[s], on_host))) for seed in range(seeds)]
    )


def check_banks(sealed: np.ndarray, agent: PyTree) -> None:
    """Raises ConfigError where a bank is not the one that its seed was trained with; `sealed` [R, 32]."""
    for expected, found in zip(np.asarray(sealed), bank_seals(agent), strict=True):
        if not np.array_equal(expected, found):
            wanted = f"the one that the policy was trained with (sha256 {shown(expected)})"
            raise ConfigError("agent.bank", wanted, f"another (sha256 {shown(found)})")


def check_data(sealed: np.ndarray, found: np.ndarray, source: str) -> None:
    """Raises ConfigError where the data, read from `source`, are not those that the run began with."""
    if not np.array_equal(np.asarray(sealed), found):
        wanted = f"the data that the run began with (sha256 {shown(np.asarray(sealed))})"
        raise ConfigError("data.path", wanted, f"{source} (sha256 {shown(found)})")


def shown(seal: np.ndarray) -> str:
    """The first 12 digits of a seal, for messages."""
    return bytes(seal).hex()[:12]


def _bytes(hexdigest: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(hexdigest), np.uint8)
