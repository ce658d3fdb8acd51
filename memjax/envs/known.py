"""Which environments there are, for the message about an id that none of them has."""

import contextlib
import difflib
import re
from collections.abc import Collection, Iterator

from memjax.envs.checks import UnknownId
from memjax.envs.envpool_spec import import_envpool
from memjax.envs.gymnax_adapter import OURS, gymnax_names
from memjax.envs.xminigrid_adapter import xminigrid_names
from memjax.schema import one_of
from memjax.types import ConfigError

MOST = 3  # ids that a message suggests
ALIKE = 0.6  # of 1: less than this is another name
NEAR = 0.15  # behind the best of them, and still named


def unknown_id(id: str, registered: Collection[str]) -> UnknownId:
    """The error for an `id` that no environment has, with the nearest ids of all suites installed here.

    Args:
      id: as the user wrote it.
      registered: the ids of `register_env`.
    """
    known = [*registered, *_ids_of_suites()]
    near = nearest_ids(id, known)
    if near:
        names = " or ".join(filter(None, [", ".join(map(repr, near[:-1])), repr(near[-1])]))
        expected = f"a known environment (did you mean {names}?)"
    else:
        suite = [other for other in known if other.partition("/")[0] == id.partition("/")[0]]
        suites = [f"{prefix}/NAME" for prefix in dict.fromkeys(other.partition("/")[0] for other in known)]
        expected = one_of(None, suite or suites, "a known environment")
    return UnknownId(id, expected)


def nearest_ids(id: str, known: Collection[str]) -> list[str]:
    """At most MOST of the `known` ids PREFIX/NAME, the most similar one first; none where no name is like it.

    What is compared is the name without case and version. Where names are equally alike, the whole name
    decides, then the prefix. An `id` without a prefix is a name.
    """
    prefix, _, name = id.lower().rpartition("/")
    scores = {}
    for other in known:
        suite, _, called = other.lower().partition("/")
        alike = _likeness(_bare(name), _bare(called))
        if alike >= ALIKE:
            scores[other] = alike + 0.1 * _likeness(name, called) + 0.1 * _likeness(prefix, suite)
    best = sorted(scores, key=lambda other: -scores[other])[:MOST]
    return [other for other in best if scores[other] >= scores[best[0]] - NEAR]


def _bare(name: str) -> str:
    """A name without its version: "ant" of "ant-v4"."""
    return re.sub(r"-v\d+$", "", name)


def _likeness(one: str, other: str) -> float:
    """1 for the same text, 0.9 where `other` begins or ends with `one`, else the share they hold alike."""
    if one == other:
        return 1.0
    if len(one) > 2 and (other.startswith(one) or other.endswith(one)):
        return 0.9
    match = difflib.SequenceMatcher(None, other, one)
    return match.ratio() if match.real_quick_ratio() >= ALIKE else 0.0


def _ids_of_suites() -> Iterator[str]:
    """The ids of every suite whose package is installed. Their imports take a second or two."""
    yield from (f"memjax/{name}" for name in OURS)
    yield from (f"gymnax/{name}" for name in gymnax_names())
    with contextlib.suppress(ConfigError):
        yield from (f"xminigrid/{name}" for name in xminigrid_names())
    with contextlib.suppress(ConfigError):
        yield from (f"envpool/{name}" for name in import_envpool().list_all_envs())
