"""The form of one checkpoint on disk, and reading it back with every value verified.

A checkpoint is a folder with two items. `state` has the arrays, named by their number in the train state.
`meta` is one JSON object, called the record: schema version, step, scalars, and the path, type, shape and
sha256 of each leaf.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from memjax import __version__
from memjax.runs.digest import (
    Leaf,
    as_array,
    digest_of,
    flatten,
    is_key,
    is_scalar,
    kind_of,
    leaves_of,
    sha256_json,
    sha256_of,
)
from memjax.runs.places import absolute, failures_as_oserror, is_remote, kvstore_url
from memjax.runs.workdir import steps_in
from memjax.text import first_line
from memjax.types import ConfigError, PyTree

SCHEMA_VERSION = 2  # of a checkpoint; raised whenever an older one can no longer be read

T = TypeVar("T")

_MOST_REPLACED = 50  # checkpoints, until reading them is given up
# What TensorStore says where a bucket gives no answer, which says nothing of the checkpoint in it.
_UNREACHABLE = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
)
_NO_ARRAYS = {"empty": np.zeros(1, np.uint8)}  # Orbax refuses an item without arrays


class Damaged(Exception):
    """A checkpoint does not contain what was saved; the message says what is wrong with it."""


class Restored(NamedTuple):
    """A checkpoint, read and verified."""

    step: int
    state: PyTree


def read_newest(directory: Path, read: Callable[[int], T]) -> tuple[T | None, list[int]]:
    """Reads the newest intact checkpoint, also of a run that goes on and replaces it meanwhile.

    Args:
      directory: with one folder for each checkpoint.
      read: takes a step; raises Damaged where that checkpoint is not what was saved.

    Returns:
      What `read` gave, None where no checkpoint is intact; and the steps of the damaged ones, newest first,
      each of which was reported on one line.

    Raises:
      ConfigError: a run replaces its checkpoints more quickly than they can be read.
    """
    damaged: list[int] = []
    replaced = 0  # while it was read
    while untried := [step for step in steps_in(directory) if step not in damaged]:
        step = untried[-1]
        try:
            return read(step), damaged
        except Damaged as error:
            if steps_in(directory)[-1:] != [max([step, *damaged])]:  # the run has gone on
                replaced += 1
                if replaced > _MOST_REPLACED:
                    expected = "checkpoints that stay while they are read (see run.keep_checkpoints)"
                    raise ConfigError(
                        "workdir", expected, f"{replaced} in a row that a run replaced"
                    ) from error
                continue
            print(f"memjax: checkpoint {step} is damaged ({error}); trying the one before it", flush=True)
            damaged.append(step)
    return None, damaged


def contents_of(step: int, state: PyTree, run: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of a checkpoint.

    Args:
      step: its number.
      state: a tree of JAX or NumPy arrays, typed PRNG keys, and Python scalars.
      run: what tells runs apart, such as a digest of the config; "": nothing does.

    Returns:
      The arrays by name, and the record together with its own sha256.
    """
    leaves = dict(enumerate(leaf for _, leaf in flatten(state)))
    table = leaves_of(state)
    record = {
        "schema": SCHEMA_VERSION,
        "memjax": __version__,
        "step": step,
        "run": run,
        "scalars": {_name(i): leaf for i, leaf in leaves.items() if is_scalar(leaf)},
        "leaves": [list(leaf) for leaf in table],
        "digest": digest_of(table),
    }
    arrays = {_name(i): _frozen(as_array(leaf)) for i, leaf in leaves.items() if _is_stored(leaf)}
    return arrays or _NO_ARRAYS, {"sha256": sha256_json(record), "record": record}


def check_readable(directory: Path, step: int) -> None:
    """Checks that checkpoint `step` can be opened and has a value for each array of its record.

    The values themselves are not read, so this is quick; `restore` verifies them.

    Raises:
      Damaged: it cannot be opened, or values are missing.
    """
    record = read_record(directory, step)
    names = [_name(i) for i, leaf in enumerate(record["leaves"]) if _is_on_disk(Leaf(*leaf))]
    if not names:
        return
    try:
        keys = _stored_keys(directory, step)
    except Exception as error:  # tensorstore: no narrower type
        raise Damaged(f"its arrays cannot be read: {first_line(error)[:120]}") from error
    missing = set(names) - {key.partition("/")[0] for key in keys}
    if missing:
        raise Damaged(f"{len(missing)} of its {len(names)} arrays cannot be read back")


def restore(directory: Path, step: int, abstract_state: PyTree, run: str = "") -> Restored:
    """Reads a checkpoint and verifies the sha256 of every leaf.

    Args:
      directory: with one folder for each checkpoint.
      step: of the checkpoint.
      abstract_state: the state's tree; of arrays, their shapes, types and placement are enough.
      run: as it was saved with; "": of any run.

    Returns:
      The step, and the state with each array where `abstract_state` places it.

    Raises:
      Damaged: the checkpoint does not contain what was saved.
      ConfigError: another run saved it, or a program with other leaves, or it is of another schema version.
    """
    record = read_record(directory, step)
    if run and record.get("run", "") not in ("", run):
        expected = "checkpoints of its own run (one of another run was copied here)"
        raise ConfigError(f"workdir: {directory / str(step)}", expected, "one that another config saved")
    wanted = flatten(abstract_state)
    _check_same_leaves(record["leaves"], [(path, *kind_of(leaf)) for path, leaf in wanted])
    targets = {_name(i): _target(leaf) for i, (_, leaf) in enumerate(wanted) if _is_stored(leaf)}
    arrays = _read_arrays(directory, step, targets)
    leaves = [_rebuild(_name(i), leaf, arrays, record["scalars"]) for i, (_, leaf) in enumerate(wanted)]
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
    for (path, *_, saved), found in zip(record["leaves"], leaves_of(state), strict=True):
        if saved != found.sha256:
            raise Damaged(f"{path} is not what was saved")
    return Restored(step, state)


def restore_leaves(directory: Path, step: int) -> dict[str, Any]:
    """Reads a checkpoint without the program that saved it, and verifies the sha256 of every leaf.

    Args:
      directory: with one folder for each checkpoint.
      step: of the checkpoint.

    Returns:
      The leaves by their path, in host memory; of PRNG keys, their data.

    Raises:
      Damaged: the checkpoint does not contain what was saved.
      ConfigError: another schema version.
    """
    record = read_record(directory, step)
    table = {_name(i): Leaf(*leaf) for i, leaf in enumerate(record["leaves"])}
    stored = [name for name, leaf in table.items() if _is_on_disk(leaf)]
    arrays = _read_arrays(directory, step, dict.fromkeys(stored, np.zeros(1)), on_host=True)
    leaves: dict[str, Any] = {}
    for name, leaf in table.items():
        if leaf.dtype == "python":
            leaves[leaf.path] = record["scalars"][name]
        else:
            leaves[leaf.path] = arrays[name] if name in arrays else np.zeros(leaf.shape)
        if sha256_of(leaves[leaf.path]) != leaf.sha256:
            raise Damaged(f"{leaf.path} is not what was saved")
    return leaves


def read_record(directory: Path, step: int) -> dict[str, Any]:
    """The verified record of checkpoint `step`. Raises Damaged, or ConfigError on another schema version."""
    try:
        path = directory / str(step) / "meta" / "metadata"
        with failures_as_oserror(path):
            content = path.read_bytes()
        meta = json.loads(content)
        record = meta["record"]
        intact = sha256_json(record) == meta["sha256"] and record["step"] == step
        schema, writer = record["schema"], record["memjax"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if is_remote(directory) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise  # the bucket cannot be reached, which says nothing of the checkpoint
        raise Damaged(f"its record cannot be read: {type(error).__name__}") from error
    if not intact:
        raise Damaged("its record is not what was saved")
    if schema != SCHEMA_VERSION:
        ours = f"schema {SCHEMA_VERSION} (this is memjax {__version__})"
        raise ConfigError("checkpoint", ours, f"schema {schema} (written by memjax {writer})")
    if not _is_well_formed(record):
        raise Damaged("its record has another form than memjax writes")
    return record


def _is_well_formed(record: Mapping[str, Any]) -> bool:
    """Whether leaves and scalars have the form that `contents_of` writes; a sha256 alone does not tell."""
    leaves, scalars = record.get("leaves"), record.get("scalars")
    if not isinstance(leaves, list) or not isinstance(scalars, dict):
        return False
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, list) or [type(part) for part in leaf] != [str, str, list, str]:
            return False
        if not all(type(size) is int and size >= 0 for size in leaf[2]):
            return False
        if leaf[1] == "python" and not is_scalar(scalars.get(_name(i))):
            return False
    return True


def _stored_keys(directory: Path, step: int) -> list[str]:
    """All keys in the database of checkpoint `step`; an array NAME has the keys NAME/.zarray, NAME/0, ..."""
    import tensorstore

    folder = absolute(directory / str(step) / "state")
    spec = {"driver": "ocdbt", "base": kvstore_url(folder)}
    return [key.decode() for key in tensorstore.KvStore.open(spec).result().list().result()]


def _read_arrays(
    directory: Path, step: int, targets: Mapping[str, Any], on_host: bool = False
) -> dict[str, Any]:
    """What Orbax finds. Any failure is damage: that the leaves fit the program was seen from the record."""
    if not targets:
        return {}
    folder = absolute(directory / str(step) / "state")  # Orbax takes absolute paths alone
    try:
        if on_host:
            how = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in targets}
            with ocp.PyTreeCheckpointer() as reader:
                return reader.restore(folder, ocp.args.PyTreeRestore(item=dict(targets), restore_args=how))
        with ocp.StandardCheckpointer() as reader:
            return reader.restore(folder, dict(targets))
    except Exception as error:  # tensorstore, zarr, JSON: no narrower type covers what a damaged file raises
        if is_remote(directory) and any(state in str(error) for state in _UNREACHABLE):
            raise OSError(f"{folder}: {first_line(error)[:120]}") from error
        raise Damaged(f"its arrays cannot be read: {first_line(error)[:120]}") from error


def _check_same_leaves(
    saved: Sequence[Sequence[Any]], wanted: Sequence[tuple[str, str, tuple[int, ...]]]
) -> None:
    """Raises ConfigError at the first leaf in which checkpoint and program differ."""
    have = {path: f"{dtype}{list(shape)}" for path, dtype, shape, _ in saved}
    want = {path: f"{dtype}{list(shape)}" for path, dtype, shape in wanted}
    for path in [*want, *have]:
        if have.get(path) != want.get(path):
            expected = f"{want.get(path, 'no such leaf')} as in this program"
            raise ConfigError(f"checkpoint{path}", expected, have.get(path, "no such leaf"))


def _name(index: int) -> str:
    return f"{index:06d}"


def _is_stored(leaf: Any) -> bool:
    """Orbax keeps it: an array that is not empty (those it refuses, and their shape says everything)."""
    return not is_scalar(leaf) and 0 not in leaf.shape


def _is_on_disk(leaf: Leaf) -> bool:
    """The same, by a leaf's entry in the record."""
    return leaf.dtype != "python" and 0 not in leaf.shape


def _frozen(array: Any) -> Any:
    """Orbax copies JAX arrays before `save` returns; those of NumPy could change under it."""
    return array if isinstance(array, jax.Array) else array.copy()


def _target(leaf: Any) -> Any:
    """What Orbax is to restore into."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return np.zeros(leaf.shape, leaf.dtype)
    shape, dtype = leaf.shape, leaf.dtype
    if is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))
        shape, dtype = data.shape, data.dtype
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _rebuild(name: str, leaf: Any, arrays: Mapping[str, Any], scalars: Mapping[str, Any]) -> Any:
    """One leaf of the restored state, of the kind of the abstract one."""
    if is_scalar(leaf):
        return scalars[name]
    value = arrays[name] if name in arrays else _empty(leaf)
    if is_key(leaf):
        return jax.random.wrap_key_data(value, impl=leaf.dtype._impl.name)
    return value[()] if isinstance(leaf, np.generic) else value


def _empty(leaf: Any) -> Any:
    """An array without elements, which no checkpoint stores."""
    target = _target(leaf)
    empty = np.zeros(target.shape, target.dtype)
    return empty if isinstance(leaf, np.ndarray) else jax.device_put(empty, target.sharding)
