"""An id that no environment has: the message names the nearest ids, in whichever suite they are."""

import pytest

from memjax import envs
from memjax.envs import backend_of, spec_of
from memjax.envs.known import nearest_ids
from memjax.types import ConfigError

KNOWN = [
    *("mine/Line-v0", "memjax/FourRooms-v0", "gymnax/FourRooms-misc", "gymnax/CartPole-v1"),
    *("gymnax/Pong-misc", "xminigrid/MiniGrid-DoorKey-8x8", "envpool/CartPole-v0", "envpool/CartPole-v1"),
    *(
        "envpool/Pong-v5",
        "envpool/Ant-v3",
        "envpool/Ant-v4",
        "envpool/MetaWorld/ButtonPress-v3",
        "envpool/Pooyan-v5",
    ),
]


@pytest.mark.parametrize(
    ("id", "nearest"),
    [
        ("CartPole-v1", ["gymnax/CartPole-v1", "envpool/CartPole-v1", "envpool/CartPole-v0"]),
        ("gymax/CartPole-v0", ["gymnax/CartPole-v1", "envpool/CartPole-v0", "envpool/CartPole-v1"]),
        ("gymnax/Ant-v4", ["envpool/Ant-v4", "envpool/Ant-v3"]),  # of another suite
        ("ANT", ["envpool/Ant-v3", "envpool/Ant-v4"]),
        ("envpool/pong", ["envpool/Pong-v5"]),
        ("ALE/Pong-v5", ["envpool/Pong-v5", "gymnax/Pong-misc"]),
        ("DoorKey-8x8", ["xminigrid/MiniGrid-DoorKey-8x8"]),
        ("memjax/FourRoom-v0", ["memjax/FourRooms-v0", "gymnax/FourRooms-misc"]),
        ("metaworld/buttonpress", ["envpool/MetaWorld/ButtonPress-v3"]),
        ("Lime-v0", ["mine/Line-v0"]),
        ("memjax/Nothing-v0", []),
        ("gymnax/", []),
        ("", []),
    ],
)
def test_the_nearest_ids_are_those_of_the_name_whatever_its_suite(id, nearest):
    assert nearest_ids(id, KNOWN) == nearest


def test_the_message_names_ids_that_exist_here(monkeypatch):
    monkeypatch.setattr(envs, "_REGISTERED", {"mine/Acrobits-v7": None})
    with pytest.raises(ConfigError) as without_prefix:
        backend_of("Acrobat-v1")
    expected = "a known environment (did you mean 'gymnax/Acrobot-v1'"
    assert without_prefix.value.field == "env.id"
    assert without_prefix.value.expected.startswith(expected)
    assert "'mine/Acrobits-v7'" in without_prefix.value.expected
    with pytest.raises(ConfigError, match=r"did you mean 'memjax/CliffWalking-v0'.*got 'gymnax/Cliff"):
        spec_of("gymnax/CliffWalking-v0", {})


def test_where_no_name_is_like_it_the_names_of_the_suite_are_listed_or_the_suites():
    with pytest.raises(
        ConfigError, match=r"\(one of memjax/CliffWalking-v0, memjax/DarkChamber-v0, .*'memjax/x"
    ):
        spec_of("memjax/x", {})
    with pytest.raises(ConfigError, match=r"\(one of memjax/NAME, gymnax/NAME, .*got 'qqq'"):
        spec_of("qqq", {})
