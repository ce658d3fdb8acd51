"""The file of a language-model agent's arrays: a checkpoint of its experience log at one event.

The arrays can be made anew from the log alone; the file spares that. It appears in one step, carries a digest
over every leaf, and where it is damaged the log is read from the beginning.
"""

import io
import json
import zipfile
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from memjax.memory import MemoryState
from memjax.runs.digest import digest, flatten, kind_of
from memjax.runs.metrics import replace_file
from memjax.types import ConfigError

_FORMAT = 1


def save_memory(path: Path, state: MemoryState, version: int) -> None:
    """Writes the arrays as of event `version`, in one atomic step."""
    leaves = flatten(state)
    about = {
        "format": _FORMAT,
        "version": version,
        "leaves": [[name, *kind_of(leaf)] for name, leaf in leaves],
        "digest": digest(state),
    }
    arrays = {f"leaf_{i}": np.asarray(leaf) for i, (_, leaf) in enumerate(leaves)}
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    replace_file(path, buffer.getvalue())


def load_memory(path: Path, empty: MemoryState) -> tuple[MemoryState, int]:
    """The arrays and the event they are of; `empty` and 0 where there is no file, or it is damaged.

    Raises ConfigError where the file is whole and of another memory.
    """
    if not path.exists():
        return empty, 0
    try:
        state, about = _read(path, empty)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        print(f"memjax: {path} is damaged ({type(error).__name__}); built anew from the log", flush=True)
        return empty, 0
    return state, about["version"]


def _read(path: Path, empty: MemoryState) -> tuple[MemoryState, dict]:
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        arrays = [file[f"leaf_{i}"] for i in range(len(about["leaves"]))]
    want = [[name, kind, list(shape)] for name, (kind, shape) in ((n, kind_of(x)) for n, x in flatten(empty))]
    if about["format"] != _FORMAT or about["leaves"] != want:
        different = next((w for w, h in zip(want, about["leaves"], strict=False) if w != h), "fewer fields")
        raise ConfigError(str(path), f"the arrays of this memory ({different})", "those of another")
    state = jax.tree.unflatten(jax.tree.structure(empty), [jnp.array(x) for x in arrays])
    if digest(state) != about["digest"]:
        raise ValueError("another digest")
    return state, about
