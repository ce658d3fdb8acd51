"""Which names are of one task: whole names, whatever package, version, case and separators."""

from pathlib import PurePath

import pytest

from memjax.data.scores import has_reference
from memjax.data.tasks import same_task, task_of, task_of_file

SAME = [
    ("envpool/Walker2d-v5", "walker2d-medium-replay-v2"),
    ("mujoco/halfcheetah/HalfCheetah-v5", "halfcheetah_full_replay-v2.hdf5"),
    ("envpool/CheetahRun-v1", "dm_control/cheetah-run-v0"),
    ("BallInCupCatch-v1", "dm_control/ball_in_cup-catch-v0"),
    ("envpool/AcrobotSwingupSparse-v1", "acrobot-swingup_sparse"),
    ("LqrLqr62-v1", "dm_control/lqr-lqr_6_2-v0"),
    ("AdroitHandPen-v1", "pen-cloned-v1"),
    ("AdroitHandRelocate-v1", "relocate-v0"),
    ("AntMaze_Large-v4", "antmaze-large-play-v2"),
    ("AntMaze_Medium-v5", "Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5"),
    ("PointMaze_Medium-v3", "maze2d-medium-sparse-v1"),
    ("PointMaze_LargeDense-v3", "maze2d-large-dense-v1"),
    ("FrankaKitchen-v1", "kitchen-partial-v0"),
    ("envpool/MetaWorld/DoorOpen-v3", "metaworld/door-open-v2-goal-observable"),
    ("gymnax/Breakout-MinAtar", "MinAtar/Breakout-v1"),
    ("LunarLander-v3", "LunarLanderContinuous-v2"),
    ("Hopper-v4", ""),
]
DIFFERENT = [
    ("Ant-v4", "AntMaze_UMaze-v4"),
    ("Ant-v2", "antmaze-umaze-v0"),
    ("AntMaze_Medium-v4", "AntMaze_Medium_Diverse_GR-v4"),
    ("PointMaze_Open-v3", "PointMaze_OpenDense-v3"),
    ("Hopper-v4", "dm_control/hopper-stand-v0"),
    ("Walker2d-v4", "envpool/WalkerWalk-v1"),
    ("Humanoid-v4", "HumanoidStandup-v4"),
    ("HalfCheetah-v4", "HalfCheetahSparse-v0"),
    ("metaworld/drawer-open-v3", "metaworld/drawer-close-v3"),
    ("metaworld/hammer-v3", "hammer-expert-v1"),
    ("door-human-v1", "pen-human-v1"),
    ("FrozenLake-v1", "FrozenLake8x8-v1"),
    ("MountainCar-v0", "MountainCarContinuous-v0"),
    ("ALE/Breakout-v5", "Breakout-MinAtar"),
    ("CartPole-v1", "CartpoleSwingup-v1"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_names_of_one_task(first, second):
    assert same_task(first, second)
    assert same_task(second, first)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_names_of_two_tasks(first, second):
    assert not same_task(first, second)
    assert not same_task(second, first)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("hopper_medium-v2.hdf5", "hopper"),
        ("HalfCheetah.hdf5", "halfcheetah"),
        ("walker2d_medium_expert-v0.hdf5", "walker2d"),
        ("ant_random-v2.hdf5", "ant"),
        ("hopper_sparse.hdf5", ""),
        ("halfcheetah_vel_medium.hdf5", ""),
        ("Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse.hdf5", ""),
        ("my_hopper.hdf5", ""),
        ("pen_expert.hdf5", ""),
        (".hdf5", ""),
    ],
)
def test_a_file_is_of_a_task_if_its_whole_name_says_so(name, task):
    assert task_of_file(PurePath("data") / name) == task


def test_what_is_no_name_is_no_task():
    assert [task_of(name) for name in ("", "---", "/", "v2", "x/-v3")] == ["", "", "", "", ""]


def test_only_the_tasks_that_were_measured_have_reference_returns():
    assert has_reference("envpool/HalfCheetah-v4")
    assert has_reference("Ant-v4", {"num_threads": 2, "max_episode_steps": 1000})
    assert not has_reference("envpool/HalfCheetah-v4", {"sparse_distance": 5.0})
    assert not has_reference("envpool/Hopper-v4", {"max_episode_steps": 200})
    assert not has_reference("envpool/Walker2d-v5", {"ctrl_cost_weight": 0.0})
    assert not has_reference("HalfCheetahSparse-v0")
    assert not has_reference("AntMaze_UMaze-v4")
