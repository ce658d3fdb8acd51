"""Gaussian policy networks in npz files.

A file holds `kernel_0`, `bias_0`, ... of an MLP, `activation` ("tanh" or "relu") between its layers, and
`log_std` [A], or `log_std_kernel` and `log_std_bias` for a deviation that depends on the last hidden layer.
Optional: `obs_mean` and `obs_std`, with which observations become (o - mean) / (std + 1e-6), and `squash` =
"tanh", which is applied to the action after sampling (as soft actor-critic does; there log_std is clipped to
[-20, 2]). NumPy evaluates it: for networks of this size that takes less than to call a compiled program.
"""

import os
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from memjax.data.hdf5 import check_file, shown
from memjax.text import first_line
from memjax.types import ConfigError

LARGEST_FILE = 1 << 30  # bytes of all arrays
STD_FLOOR = 1e-6
LOG_STD_LIMITS = (-20.0, 2.0)  # where actions are squashed
# What zipfile and NumPy raise for an archive that is damaged, or that holds objects.
DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)

Get = Callable[[str, int], np.ndarray]  # (name, axes) -> a checked array of the file

_ACTIVATIONS = {"tanh": np.tanh, "relu": lambda x, out: np.maximum(x, 0, out=out)}


class Network(NamedTuple):
    """A Gaussian policy. H is the width of the last hidden layer."""

    kernels: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activation: str
    log_std: np.ndarray | None  # [A]
    log_std_kernel: np.ndarray | None  # [H, A]
    log_std_bias: np.ndarray | None  # [A]
    obs_mean: np.ndarray | None  # [O]
    obs_std: np.ndarray | None  # [O]
    squash: bool

    def act(self, observations: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Actions [B, A] for observations [B, O]: the mean, or a sample where there is a generator."""
        hidden = self._hidden(observations)
        action = hidden @ self.kernels[-1]
        action += self.biases[-1]
        if rng is not None:
            noise = rng.standard_normal(action.shape, np.float32)
            noise *= self._std(hidden)
            action += noise
        return np.tanh(action, out=action) if self.squash else action

    def _hidden(self, observations: np.ndarray) -> np.ndarray:
        x, activation = observations, _ACTIVATIONS[self.activation]
        if self.obs_mean is not None:
            x = (x - self.obs_mean) / self.obs_std
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = x @ kernel
            x += bias
            activation(x, out=x)
        return x

    def _std(self, hidden: np.ndarray) -> np.ndarray:
        if self.log_std is not None:
            return np.exp(self.log_std)
        log_std = hidden @ self.log_std_kernel + self.log_std_bias
        return np.exp(np.clip(log_std, *LOG_STD_LIMITS) if self.squash else log_std)


def read_network(path: str | os.PathLike[str]) -> Network:
    """The network of an npz file. Raises ConfigError, with file and field, where it is not as described."""
    arrays = _read_arrays(path)
    field, get = shown(path), partial(_floats, shown(path), arrays)
    layers = sum(name.startswith("kernel_") for name in arrays)
    if not layers:
        raise ConfigError(f"{field}: kernel_0", "to be in the file", f"only {_some(arrays)}")
    kernels = tuple(get(f"kernel_{i}", 2) for i in range(layers))
    biases = tuple(get(f"bias_{i}", 1) for i in range(layers))
    for i in range(layers):
        before = kernels[i].shape[0] if i == 0 else kernels[i - 1].shape[1]
        _check_shape(field, f"kernel_{i}", kernels[i], (before, kernels[i].shape[1]))
        _check_shape(field, f"bias_{i}", biases[i], kernels[i].shape[1:])
    noise = _noise(field, arrays, get, kernels[-1].shape)
    return Network(
        kernels,
        biases,
        _word(field, arrays, "activation", tuple(_ACTIVATIONS)),
        *noise,
        *_normaliser(field, arrays, get, kernels[0].shape[:1]),
        squash="squash" in arrays and bool(_word(field, arrays, "squash", ("tanh",))),
    )


def _noise(field: str, arrays: dict[str, Any], get: Get, last: tuple[int, int]) -> tuple[Any, Any, Any]:
    """(log_std, log_std_kernel, log_std_bias), of which one form is there."""
    if "log_std_kernel" in arrays:
        kernel, bias = get("log_std_kernel", 2), get("log_std_bias", 1)
        _check_shape(field, "log_std_kernel", kernel, last)
        _check_shape(field, "log_std_bias", bias, last[1:])
        return None, kernel, bias
    log_std = get("log_std", 1)
    _check_shape(field, "log_std", log_std, last[1:])
    return log_std, None, None


def _normaliser(field: str, arrays: dict[str, Any], get: Get, width: tuple[int, ...]) -> tuple[Any, Any]:
    """(mean, std + 1e-6), or neither."""
    if "obs_mean" not in arrays and "obs_std" not in arrays:
        return None, None
    mean, std = get("obs_mean", 1), get("obs_std", 1)
    _check_shape(field, "obs_mean", mean, width)
    _check_shape(field, "obs_std", std, width)
    if (std < 0).any():
        raise ConfigError(f"{field}: obs_std", "deviations >= 0", f"{std.min():g}")
    return mean, std + np.float32(STD_FLOOR)


def _read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    check_file(path)
    field = shown(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST_FILE:
            raise ConfigError(field, f"at most {LARGEST_FILE:,} bytes of weights", f"{size:,}")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ConfigError:
        raise
    except DAMAGED as error:
        reason = first_line(error)[:200]
        raise ConfigError(field, "an npz file of plain arrays", reason) from error


def _floats(field: str, arrays: dict[str, np.ndarray], name: str, ndim: int) -> np.ndarray:
    if name not in arrays:
        raise ConfigError(f"{field}: {name}", "to be in the file", f"only {_some(arrays)}")
    array = arrays[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != ndim or 0 in array.shape:
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "no array"
        raise ConfigError(f"{field}: {name}", f"floats with {ndim} axes", got)
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise ConfigError(f"{field}: {name}", "finite floats", "nan or inf")
    return array


def _check_shape(field: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ConfigError(f"{field}: {name}", f"shape {shape}", array.shape)


def _word(field: str, arrays: dict[str, np.ndarray], name: str, known: tuple[str, ...]) -> str:
    value = str(arrays[name])[:40] if name in arrays else "nothing"
    if value not in known:
        raise ConfigError(f"{field}: {name}", f"one of {', '.join(known)}", shown(value))
    return value


def _some(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(shown(name) for name in list(arrays)[:12]) or "nothing"
