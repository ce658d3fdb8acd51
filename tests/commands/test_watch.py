"""`memjax watch`: what is drawn, what the panel says, and the files; the agents here are three lines long."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from doc_blocks import ROOT, blocks
from matplotlib.figure import Figure
from PIL import Image

from memjax.commands import watch
from memjax.commands.figures import save_figure
from memjax.commands.film import FORKED, HOLD, PANEL, Film, Moment, frames, write_film
from memjax.envs.pictures import CLIFF, GOAL, LEVER, MEMORY, POLICY, START, WALL, Renderer, Scene
from memjax.envs.renderers import make_renderer, register_renderer
from memjax.types import Action, Agent, ConfigError


def colour_at(picture, cell, shape):
    """Of the middle of a cell of a map of `shape` rows and columns."""
    height, width = picture.shape[0] // shape[0], picture.shape[1] // shape[1]
    row, column = divmod(cell, shape[1])
    return tuple(picture[row * height + height // 2, column * width + width // 2].tolist())


def test_a_map_shows_walls_landmarks_and_who_acts():
    draw = make_renderer("memjax/FourRooms-v0", {"random_start": False}).draw
    picture = draw(Scene(np.zeros(26), 20, by_memory=True, trail=(15, 16)))
    assert [colour_at(picture, cell, (13, 13)) for cell in (0, 14, 154, 20)] == [WALL, START, GOAL, MEMORY]
    assert colour_at(draw(Scene(np.zeros(26), 20)), 20, (13, 13)) == POLICY
    draw = make_renderer("memjax/CliffWalking-v0", {}).draw
    picture = draw(Scene(np.zeros(16), 36))
    assert [colour_at(picture, cell, (4, 12)) for cell in (36, 40, 47)] == [POLICY, CLIFF, GOAL]
    draw = make_renderer("memjax/DarkChamber-v0", {"size": 8}).draw
    picture = draw(Scene(np.zeros((1, 32, 32)), 64 + 9))  # the lever is pulled: another state, the same cell
    assert [colour_at(picture, cell, (8, 8)) for cell in (9, 4, 56, 7)] == [POLICY, WALL, LEVER, GOAL]


def test_a_goal_that_moves_is_where_the_observation_says():
    draw = make_renderer("memjax/FourRooms-v0", {"random_goal": True}).draw
    observation = np.zeros(52)
    observation[[26 + 8, 39 + 9]] = 1.0
    assert colour_at(draw(Scene(observation, 20)), 8 * 13 + 9, (13, 13)) == GOAL
    assert colour_at(draw(Scene(observation, 20)), 154, (13, 13)) != GOAL


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("CartPole-v1", [0, 0, 0, 0], [1, 0, 0.2, 0]),
        ("MountainCar-v0", [-0.5, 0], [0.3, 0]),
        ("Acrobot-v1", [1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0]),
        ("Pendulum-v1", [1, 0, 0], [0, 1, 0]),
    ],
)
def test_classic_tasks_are_drawn_from_what_they_show(name, one, other):
    draw = make_renderer(f"gymnax/{name}", {}).draw
    first, second = (draw(Scene(np.asarray(x, np.float32), 0)) for x in (one, other))
    assert first.shape == second.shape == (384, 384, 3)
    assert (first != second).any()
    np.testing.assert_array_equal(first, draw(Scene(np.asarray(one, np.float32), 0)))


def test_channels_have_colours_and_one_channel_is_grey():
    draw = make_renderer("gymnax/Breakout-MinAtar", {}).draw
    observation = np.zeros((4, 10, 10))
    observation[0, 9, 5] = observation[3, 2, 1] = 1.0
    picture = draw(Scene(observation, 0))
    shown = {colour_at(picture, cell, (10, 10)) for cell in range(100)}
    assert len(shown) == 3
    assert colour_at(picture, 95, (10, 10)) != colour_at(picture, 21, (10, 10))
    sea = np.zeros((8, 8))
    sea[3, 4] = 1.0
    picture = make_renderer("gymnax/DeepSea-bsuite", {"size": 8}).draw(Scene(sea.ravel(), 0))
    assert colour_at(picture, 3 * 8 + 4, (8, 8)) == (255, 255, 255)


def test_minigrid_is_drawn_by_its_package():
    pytest.importorskip("xminigrid")
    renderer = make_renderer("xminigrid/MiniGrid-Empty-6x6", {})
    env = watch.make_env("xminigrid/MiniGrid-Empty-6x6", options={})
    state, timestep = env.init(jax.random.key(0), 1)
    one = jax.tree.map(lambda x: x[0], state)
    before, after = renderer.keep(one), renderer.follow(one, jnp.int32(0))  # forward
    first, second = (renderer.draw(Scene(timestep.observation[0], 0, x)) for x in (before, after))
    assert first.shape == second.shape == (384, 384, 3)
    assert (first != second).any()


def test_what_cannot_be_drawn_is_said_on_one_line():
    with pytest.raises(
        ConfigError, match=r"env\.id: expected an environment that can be drawn .*SimpleBandit"
    ):
        make_renderer("gymnax/SimpleBandit-bsuite", {})
    register_renderer("mine/Dot-v0", lambda options: Renderer(lambda scene: np.zeros((2, 2, 3), np.uint8)))
    assert make_renderer("mine/Dot-v0", {}).draw(Scene(np.zeros(1), 0)).shape == (2, 2, 3)
    with pytest.raises(ConfigError, match="without a renderer"):
        register_renderer("mine/Dot-v0", lambda options: None)


def test_the_renderer_of_the_page_draws():
    page = Path("docs/watching.md")
    if not (ROOT / page).is_file():
        pytest.skip("no documents beside the tests")
    [code] = [block.text for block in blocks(page) if block.language == "python"]
    exec(compile(code, str(page), "exec"), {})
    picture = make_renderer("mylab/Corridor-v0", {}).draw(Scene(np.eye(4)[2], 0, by_memory=True))
    assert [colour_at(picture, cell, (1, 4)) for cell in (1, 2)] == [(255, 255, 255), MEMORY]


RIGHT, DOWN = 1, 2


def walker(success=True):
    """Goes right along the second row's doorway and down; the memory acts in every other step."""

    def act(state, carry, timestep, key, *, policy="ensemble"):
        del key
        path = jnp.array([DOWN] * 2 + [RIGHT] * 8 + [DOWN] * 8 + [RIGHT] * 2)
        chosen = jnp.where(success, path[jnp.minimum(carry, len(path) - 1)], 0)
        gate = (carry % 2 == 0) & (policy != "policy")
        extras = {"gate": gate, "confidence": state * jnp.ones(carry.shape)}
        return Action(chosen, carry + 1, extras)

    no = lambda *_: None  # noqa: E731
    return Agent(no, lambda batch: jnp.zeros(batch, jnp.int32), act, no, 1, ("ensemble", "policy"))


def play(agent, policy="ensemble", most_steps=500, options=None):
    options = options or {"random_start": False, "max_steps_in_episode": 40}
    config = SimpleNamespace(env=SimpleNamespace(id="memjax/FourRooms-v0", options=options))
    renderer = make_renderer(config.env.id, options)
    player = watch._player(config, SimpleNamespace(agent=agent), renderer)
    return player(jnp.float32(0.75), policy, 0, most_steps)


def test_an_episode_is_played_to_its_end():
    moments = play(walker())
    assert len(moments) == 21
    assert [m.total for m in moments[-2:]] == [0.0, 1.0]
    assert moments[-1].end == "success"
    assert (
        colour_at(moments[-1].picture, 154, (13, 13)) == POLICY
    )  # at the goal, although the next one has begun
    assert [m.by_memory for m in moments[:3]] == [1.0, 0.0, 1.0]
    assert {m.confidence for m in moments[:-1]} == {0.75}
    assert watch._said(1, moments).endswith("20 steps, return 1, success, 50 % of its actions by the memory")
    alone = play(walker(), policy="policy")
    assert {m.by_memory for m in alone[:-1]} == {0.0}


def test_an_episode_may_end_by_time_or_be_cut():
    assert [play(walker(success=False))[-1].end, len(play(walker(success=False)))] == ["time is up", 41]
    cut = play(walker(success=False), most_steps=5)
    assert (cut[-1].end, len(cut)) == ("stopped", 6)


def moments(count, **told):
    pictures = [np.full((60, 80, 3), 10 * t, np.uint8) for t in range(count)]
    told = {"by_memory": 1.0, "confidence": 0.5} | told
    return [*(Moment(p, 0.0, **told) for p in pictures[:-1]), Moment(pictures[-1], 1.0, None, None, "ended")]


def test_the_panel_shows_what_the_memory_did():
    film = Film("title", "agent")
    with_memory = list(frames(film, 1, moments(4)))
    without = list(frames(film, 1, moments(4, by_memory=None, confidence=None)))
    by_policy = list(frames(film, 1, moments(4, by_memory=0.0)))
    assert len(with_memory) == 4 + HOLD - 1
    panels = [
        np.asarray(found[2][:, -PANEL:]).reshape(-1, 3).tolist()
        for found in (with_memory, without, by_policy)
    ]
    assert [list(MEMORY) in panel for panel in panels] == [True, False, False]
    assert [list(POLICY) in panel for panel in panels] == [False, False, True]
    assert len(list(frames(film, 1, moments(6), stride=4))) == 3 + HOLD - 1  # moments 0, 4 and the last


def test_a_gif_has_its_frames_and_speed(tmp_path):
    images = [np.full((30, 40 + t, 3), 40 * t, np.uint8) for t in range(4)]  # of different sizes
    write_film(images, tmp_path / "deep" / "x.gif", rate=8)
    film = Image.open(tmp_path / "deep" / "x.gif")
    assert (film.n_frames, film.size, film.info["duration"]) == (4, (43, 30), 120)
    with pytest.raises(ConfigError, match=r"--out: expected a file that ends with \.gif or \.mp4"):
        write_film(images, tmp_path / "x.png", rate=8)


def test_a_film_or_picture_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memjax.runs.places.os.fsync", full)
    images = [np.full((30, 40, 3), 40, np.uint8)]
    with pytest.raises(OSError, match=r"No space left on device: .*x\.gif"):
        write_film(images, tmp_path / "x.gif", rate=8)
    with pytest.raises(OSError, match=r"No space left on device: .*x\.png"):
        save_figure(Figure(), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


# Of the package that reads the film here, which forks as the writer does.
@pytest.mark.filterwarnings(f"ignore:{FORKED}:RuntimeWarning")
def test_an_mp4_where_there_is_its_package(tmp_path, monkeypatch):
    imageio = pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    images = [np.full((30, 41, 3), 40 * t, np.uint8) for t in range(4)]
    jnp.zeros(1).block_until_ready()  # JAX warns of forks once it runs
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        write_film(images, tmp_path / "x.mp4", rate=8)
    assert [str(each.message) for each in told if each.category is RuntimeWarning] == []
    assert len(imageio.mimread(tmp_path / "x.mp4")) == 4
    monkeypatch.setitem(watch.sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install 'memjax\[video\]'"):
        write_film(images, tmp_path / "y.mp4", rate=8)


def test_mistakes_name_what_there_is():
    agent = walker()
    with pytest.raises(ConfigError, match="--policy: expected one of ensemble, policy"):
        watch._policy(watch.Request(policy="memory"), agent)
    assert watch._policy(watch.Request(), agent) == "ensemble"
    config = SimpleNamespace(seed=3, num_seeds=2)
    assert watch._row(watch.Request(seed=4), config) == 1
    with pytest.raises(ConfigError, match="a seed of this run, 3 to 4"):
        watch._row(watch.Request(seed=0), config)
