"""What makes two launches the same run: the fields of a config that may not differ between them."""

import hashlib
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

# Fields that may differ between two launches of one run, since no result depends on them.
FREE_FIELDS = ("run.keep_checkpoints", "run.memory", "sinks")
NOTHING: Mapping[str, Any] = MappingProxyType({})
_MOST_WORDS = 8
_NAMED_FIRST = (
    "experiment",
    "env.id",
    "agent.name",
    "agent.read.kind",
)  # where runs differ in several fields


def differences(
    stored: Mapping[str, Any],
    new: Mapping[str, Any],
    free: Collection[str] = FREE_FIELDS,
    later: Mapping[str, Any] = NOTHING,
) -> list[tuple[str, Any, Any]]:
    """Compares two configs and says why they are not of the same run.

    `run.total_steps` may be larger in `new`, which extends the run.

    Args:
      stored: a whole config as plain values.
      new: likewise.
      free: fields and sections that may differ.
      later: fields that `stored` may lack, by path, and the values that it then has.

    Returns:
      (field, value in `stored`, value in `new`) of each field that differs, by name.
    """
    found, old_leaves, new_leaves = [], leaves_of(stored), leaves_of(new)
    old_leaves = {field: later[field] for field in new_leaves.keys() & later.keys()} | old_leaves
    for field in sorted(old_leaves.keys() | new_leaves.keys(), key=lambda f: (f not in _NAMED_FIRST, f)):
        old, value = old_leaves.get(field), new_leaves.get(field)
        extended = (
            field == "run.total_steps" and isinstance(old, int) and isinstance(value, int) and value >= old
        )
        if not _is_free(field, free) and not extended and (type(old), old) != (type(value), value):
            found.append((field, old, value))
    return found


def words_to_go_on(differing: Sequence[tuple[str, Any, Any]]) -> str:
    """The words of a command that set these fields as the stored run has them; "" where it has none."""
    settings = ("agent.", "benchmark.", "chat.", "data.", "env.", "language.", "run.", "seed", "num_seeds")
    able = all(field.startswith(settings) and field not in _NAMED_FIRST for field, _, _ in differing)
    if not able or len(differing) > _MOST_WORDS:
        return ""
    return " ".join(shlex.quote(f"--config.{field}={old}") for field, old, _ in differing)


def identity(config: Mapping[str, Any], free: Collection[str] = FREE_FIELDS) -> str:
    """A digest of what may not differ between two launches of a run.

    Args:
      config: of config.json, which lacks the fields that came later than the run.
      free: fields and sections that may differ.
    """
    kept = {
        field: value
        for field, value in leaves_of(config).items()
        if field != "run.total_steps"
        and not _is_free(field, free)
        # Checkpoints were saved without this one even where config.json has it.
        and not (field.endswith(".env_groups") and value == 1)
    }
    return sealed(kept)


def as_begun(
    config: Mapping[str, Any], stored: Mapping[str, Any], later: Mapping[str, Any], path: str = ""
) -> dict[str, Any]:
    """`config` without the fields that came later than `stored` and change nothing."""
    kept = {}
    for name, value in config.items():
        before = stored.get(name)
        if isinstance(value, Mapping):
            inner = before if isinstance(before, Mapping) else {}
            kept[name] = as_begun(value, inner, later, f"{path}{name}.")
        elif name in stored or later.get(f"{path}{name}", ...) != value:
            kept[name] = value
    return kept


def _is_free(field: str, free: Collection[str]) -> bool:
    return any(field == name or field.startswith(f"{name}.") for name in free)


def leaves_of(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """All fields of a config that are no sections, by path."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            leaves |= leaves_of(value, f"{path}{name}.")
        else:
            leaves[f"{path}{name}"] = value
    return leaves


def sealed(values: Mapping[str, Any]) -> str:
    """sha256 of a JSON object in one spelling."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
