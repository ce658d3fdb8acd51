import numpy as np

from experiments.known_from_new import EPISODE, SIZE, area, states_of, walks
from memjax.envs.dark_chamber import DarkChamber


def test_area_is_the_share_of_pairs_in_the_right_order():
    assert area(np.array([[3.0, 4.0]]), np.array([1.0, 2.0, 2.5])) == 1.0
    assert area(np.array([1.0]), np.array([0.0, 1.0, 2.0, 3.0])) == (1 + 0.5) / 4


def test_walks_stay_behind_the_door_one_step_at_a_time_and_know_the_lever():
    world = DarkChamber(SIZE)
    states = walks(world, 3 * EPISODE, seed=0)
    known, new = (set(np.asarray(states_of(world, left=left)).tolist()) for left in (True, False))
    assert set(np.unique(states)) <= known
    assert not known & new
    cells, pulled = states % SIZE**2, states >= SIZE**2
    moved = np.abs(np.diff(cells // SIZE, axis=0)) + np.abs(np.diff(cells % SIZE, axis=0))
    assert (moved > 1).mean() < 2 / EPISODE  # but for those that begin anew
    assert pulled[cells == world.lever].all()
    assert (np.diff(pulled.astype(int), axis=0)[cells[1:] != world.lever] <= 0).all()
