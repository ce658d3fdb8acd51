"""ALFWorld: commands from replies, the loop with a game of our own, the loader, one real game."""

import importlib.util
import json
import shutil
import tarfile

import pytest
from scripted import Script, shared

from memjax.llm.run.content import experience_text
from memjax.llm.run.prompts import memory_block
from memjax.llm.run.records import Experience, Recall
from memjax.llm.tasks.alfworld import command_of, load_alfworld
from memjax.llm.tasks.textworld_game import Scene
from memjax.llm.types import Message
from memjax.types import ConfigError


class ToyGame:
    """Won by taking the cup; lost by breaking it."""

    closed = 0

    def __init__(self, file):
        self.file = file

    def reset(self):
        return Scene(
            "-= Welcome =-\n\nA room.\nYour task is to: take a cup.",
            ("take cup", "break cup", "look"),
            False,
            False,
        )

    def step(self, command):
        won = command == "take cup"
        return Scene(f"You {command}.", ("take cup", "look"), won, won or command == "break cup")

    def close(self):
        ToyGame.closed += 1


def written(folder, *, kind="pick_and_place_simple", solvable=True, name="pick-Cup", grammar=None):
    game = folder / "json_2.1.1" / "train" / name / "trial_1"
    game.mkdir(parents=True)
    rule = grammar or '"task": [ { "rhs": "Your task is to: take a \\"cup\\"." } ]'
    (game / "game.tw-pddl").write_text(json.dumps({"grammar": rule, "solvable": solvable}))
    (game / "traj_data.json").write_text(json.dumps({"task_type": kind}))
    return folder


def only(folder, **options):
    return load_alfworld(folder, held_out=None, start=ToyGame, **options)


@pytest.mark.parametrize(
    ("reply", "command"),
    [
        ("go to desk 1", "go to desk 1"),
        ("> go to desk 1\nmore", "go to desk 1"),
        ("I look around.\nAction: go to desk 1.", "go to desk 1"),
        ("```\n`look`\n```", "look"),
        ("think: where is it?", "think: where is it?"),
        ("", ""),
    ],
)
def test_a_command_is_taken_from_a_reply(reply, command):
    assert command_of(reply) == command


def test_a_game_is_won_in_steps(tmp_path):
    task = only(written(tmp_path)).train[0]
    assert (task.id, task.intent) == ("train/pick-Cup/trial_1", 'take a "cup".')
    model = Script("think: a cup", "fly away", "look", "take cup")
    outcome = task.attempt(model, "older notes")
    assert (outcome.success, outcome.score, outcome.steps) == (True, 1.0, 4)
    said = [asked[-1].content for asked in model.asked]
    assert said[0].startswith("A room.")
    assert said[1] == "OK."
    assert said[2] == "Nothing happens.\nPossible commands: take cup, break cup, look"
    assert said[3] == "You look.\nPossible commands: take cup, look"
    assert outcome.trajectory.endswith("World: You take cup.")
    assert outcome.solution == "> look\n> take cup"  # neither thoughts nor what does nothing


def test_a_game_is_lost_by_its_end_or_by_the_limit(tmp_path):
    closed = ToyGame.closed
    task = only(written(tmp_path), steps=2).train[0]
    assert task.attempt(Script("break cup"), "").feedback == "the game ended"
    outcome = task.attempt(Script("look", "look"), "")
    assert (outcome.success, outcome.feedback) == (False, "the task was not fulfilled within 2 steps")
    assert ToyGame.closed == closed + 2


def test_an_example_is_shown_in_the_words_of_the_games(tmp_path):
    kinds = ("put", "clean", "heat", "cool", "examine", "puttwo")
    text = "A room.\nYour task is to: put cups on desk 2.\n> think: a cup\n> put cup 1 in/on desk 2\n" + (
        "You put the cup 1 in/on the desk 2.\n> put cup 2 in/on desk 2\nYou put the cup 2 in/on the desk 2.\n"
    )
    (tmp_path / "react_prompts.json").write_text(json.dumps({f"react_{kind}_0": text for kind in kinds}))
    written(tmp_path)
    model = Script("take cup")
    only(tmp_path).train[0].attempt(model, "")
    assert [(m.role, m.content) for m in model.asked[0][1:-1]] == [
        ("user", "A room.\nYour task is to: put cups on desk 2."),
        ("assistant", "think: a cup"),
        ("user", "OK."),
        ("assistant", "move cup 1 to desk 2"),
        ("user", "You move the cup 1 to the desk 2."),
        ("assistant", "move cup 2 to desk 2"),
    ]
    assert "A room" in model.asked[0][-1].content
    assert only(tmp_path, examples="").train[0].example == ""
    with pytest.raises(ConfigError, match="act_put_0"):
        only(tmp_path, examples="act")
    with pytest.raises(ConfigError, match="examples: expected react, act or ''"):
        only(tmp_path, examples="none")


@pytest.mark.parametrize(
    ("when", "listed"), [("always", [True, True]), ("invalid", [False, True]), ("never", [False] * 2)]
)
def test_possible_commands_are_listed_when_they_are_wanted(tmp_path, when, listed):
    model = Script("fly", "take cup")
    only(written(tmp_path), show_commands=when).train[0].attempt(model, "")
    assert [
        "Possible commands: take cup, break cup, look" in asked[-1].content for asked in model.asked
    ] == listed
    with pytest.raises(ConfigError, match="show_commands: expected always or invalid or never"):
        only(tmp_path, show_commands="sometimes")


def test_what_is_said_before_the_world_answers_is_dropped(tmp_path):
    model = Script("> look\nYou see a cup.\n> take cup", "take cup")
    outcome = only(written(tmp_path)).train[0].attempt(model, "")
    assert model.asked[1][-2].content == "look"
    assert "You see a cup" not in outcome.trajectory
    assert outcome.success


def test_games_that_are_not_played_are_listed(tmp_path):
    written(tmp_path)
    written(tmp_path, name="pick-AppleSliced")
    written(tmp_path, name="pick-Egg", solvable=False)
    benchmark = only(tmp_path)
    assert [task.id for task in benchmark.train] == ["train/pick-Cup/trial_1"]
    assert sorted(left["why"] for left in benchmark.about["left_out"]) == [
        "ALFWorld does not play these",
        "not solvable",
    ]


def test_what_is_missing_or_of_another_format_is_named(tmp_path):
    with pytest.raises(ConfigError, match="the folder of the split train, got nothing there"):
        only(tmp_path)
    with pytest.raises(ConfigError, match=r"traj_data.json: task_type: expected one of .*, got dance"):
        only(written(tmp_path / "a", kind="dance"))
    with pytest.raises(ConfigError, match='grammar: expected a sentence "Your task is to'):
        only(written(tmp_path / "b", grammar="none"))
    (written(tmp_path / "c") / "json_2.1.1/train/pick-Cup/trial_1/game.tw-pddl").unlink()
    with pytest.raises(ConfigError, match=r"game.tw-pddl: expected a file"):
        only(tmp_path / "c")


def test_games_of_chosen_kinds_alone_are_loaded(tmp_path):
    for kind in ("look_at_obj_in_light", "pick_and_place_simple", "pick_two_obj_and_place"):
        written(tmp_path, kind=kind, name=f"{kind}-Cup-None-Desk-1")
    chosen = only(tmp_path, kinds="pick_and_place_simple, look_at_obj_in_light")
    assert [task.kind for task in chosen.train] == ["look_at_obj_in_light", "pick_and_place_simple"]
    assert len(only(tmp_path).train) == 3
    with pytest.raises(ConfigError, match=r"kinds: expected some of .* got pick"):
        only(tmp_path, kinds="pick")
    with pytest.raises(ConfigError, match="of the kinds pick_heat"):
        only(tmp_path, kinds="pick_heat_then_place_in_recep")


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    task = load_alfworld(written(tmp_path), held_out=None).train[0]
    with pytest.raises(ConfigError, match="pip install alfworld textworld"):
        task.attempt(Script("look"), "")


class Flat:
    """A cup in a closed box, a pen on a desk; won by the cup on the desk."""

    def __init__(self, file):
        self.at, self.carried, self.opened = "", "", False
        self.things = {"cup 1": "box 1", "pen 1": "desk 1"}

    def reset(self):
        return self.scene("Your task is to: put a cup on desk.")

    def step(self, command):
        verb, _, rest = command.partition(" ")
        thing, _, place = rest.partition(" to " if verb == "move" else " from ")
        if verb == "go":
            self.at = rest.removeprefix("to ")
        elif verb == "open":
            self.opened = True
        elif verb in ("take", "move"):
            self.carried = thing if verb == "take" else ""
            self.things[thing] = place if verb == "move" else ""
        return self.scene(f"You {command}.")

    def scene(self, text):
        commands = ["look", "inventory", *(f"go to {p}" for p in ("box 1", "desk 1") if p != self.at)]
        commands += ["examine box 1", "open box 1"] if self.at == "box 1" and not self.opened else []
        here = [x for x, place in self.things.items() if place == self.at and (self.opened or x == "pen 1")]
        if self.carried:
            commands += [f"move {self.carried} to {self.at}", f"slice bread 1 with {self.carried}"]
        else:
            commands += [f"take {thing} from {self.at}" for thing in here]
        won = self.things["cup 1"] == "desk 1"
        return Scene(text, tuple(commands), won, won)

    def close(self):
        pass


def choosing(folder, *replies, steps=30):
    model = Script(*replies)
    task = load_alfworld(written(folder), held_out=None, start=Flat, choose=True, steps=steps).train[0]
    return model, task.attempt(model, "")


def test_the_commands_that_can_help_are_offered_and_no_loops(tmp_path):
    pen, back = "take pen 1 from desk 1", "move pen 1 to box 1"
    model, outcome = choosing(
        tmp_path, "go to desk 1", pen, "go to box 1", back, "take cup 1 from box 1", "go to desk 1",
        "move cup 1 to desk 1",
    )  # fmt: skip
    assert outcome.success
    assert model.offered == [
        ["go to box 1", "go to desk 1"],
        [pen, "go to box 1"],
        ["go to box 1"],  # not back to where the pen was
        [back, "go to desk 1"],  # the pen was taken since
        ["take cup 1 from box 1", "go to desk 1"],  # the pen, which is there as well, was taken once
        ["go to desk 1"],
        ["move cup 1 to desk 1", "go to box 1"],
    ]
    said = [asked[-1].content for asked in model.asked]
    assert said[3] == (
        "You arrive at box 1. You open box 1.\n"
        'Task: take a "cup". You carry: pen 1. Here you can: move pen 1 to box 1.'
    )
    assert outcome.solution.splitlines()[2:4] == ["> go to box 1", "> open box 1"]


def test_places_are_offered_again_when_none_is_left_and_a_free_reply_does_nothing(tmp_path):
    model, outcome = choosing(tmp_path, "go to box 1", "look", "go to desk 1", "go to box 1", steps=4)
    assert (outcome.success, outcome.feedback) == (False, "the task was not fulfilled within 4 steps")
    assert model.asked[2][-1].content.startswith("Nothing happens.\nTask: ")
    assert model.offered[3] == ["take pen 1 from desk 1", "go to box 1"]
    assert outcome.solution == "> go to box 1\n> open box 1\n> go to desk 1\n> go to box 1"


WALK = ["go to box 1", "open box 1", "take cup 1 from box 1", "go to desk 1", "move cup 1 to desk 1"]


def near_the_end(folder, **options):
    game = written(folder) / "json_2.1.1" / "train" / "pick-Cup" / "trial_1" / "game.tw-pddl"
    game.write_text(json.dumps(json.loads(game.read_text()) | {"walkthrough": WALK}))
    return load_alfworld(folder, held_out=None, start=Flat, choose=True, **options).train[0]


def test_a_game_can_begin_near_its_end(tmp_path):
    task, model = near_the_end(tmp_path, last=2), Script("go to desk 1", "move cup 1 to desk 1")
    outcome = task.attempt(model, "")
    assert outcome.success
    assert outcome.solution == "> go to desk 1\n> move cup 1 to desk 1"
    assert model.offered[0] == ["go to desk 1"]  # the cup is in the hand, and is not put back
    assert model.asked[0][-1].content == (
        "Your task is to: put a cup on desk.\nYou take cup 1 from box 1.\n"
        'Task: take a "cup". You carry: cup 1.'
    )


@pytest.mark.parametrize("last", [None, 4, 9])
def test_a_walkthrough_that_is_not_longer_is_played_whole(tmp_path, last):
    led, left = near_the_end(tmp_path, last=last).parts()
    assert (list(led), list(left)) == ([], [WALK[0], *WALK[2:]])


def stored(outcome, intent="put a cup on desk."):
    """A memory of an outcome, as a prompt shows it."""
    content = experience_text(
        intent, outcome.solution, outcome.trajectory, summary="", success=outcome.success, chars=4_000
    )
    about = {"core": content.core}
    nothing = Recall((), (), ())
    memory = Experience(0, "t", 0, intent, content.text, outcome.success, 1.0, nothing, about, "")
    return memory_block([memory], chars=6_000).text


def test_a_won_game_is_shown_as_turns_of_the_conversation(tmp_path):
    task = near_the_end(tmp_path, last=2, demonstrate=True)
    first = Script("go to desk 1", "move cup 1 to desk 1")
    won = task.attempt(first, "")
    end = "You move cup 1 to desk 1.\nThe task is fulfilled."
    assert won.solution.endswith(f"> move cup 1 to desk 1\n{end}")
    second = Script("go to desk 1", "move cup 1 to desk 1")
    task.attempt(second, stored(won))
    told, played = second.asked[0], first.asked[-1]
    assert told[0] == first.asked[0][0]  # the instructions
    turns = [played[-3], Message("assistant", "go to desk 1"), played[-1]]
    turns += [Message("assistant", "move cup 1 to desk 1")]
    turns += [Message("user", end), Message("assistant", "OK")]
    assert list(told[1:-1]) == turns  # in place of the example
    assert told[-1] == played[-3]  # the game's own beginning


def test_a_lost_game_and_another_kind_of_memory_stay_text(tmp_path):
    task = near_the_end(tmp_path, last=2, demonstrate=True, steps=1)
    lost = task.attempt(Script("go to desk 1"), "")
    assert (lost.success, lost.solution) == (False, "> go to desk 1")
    for text in (stored(lost), "a note", "<memory>\nSolution that worked:\n> go to desk 1\n</memory>"):
        model = Script("go to desk 1")
        task.attempt(model, text)
        said = [message.content for message in model.asked[0]]
        assert sum(text in one for one in said) == 1
        assert any("alarmclock" in one for one in said)  # the example


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"last": 0, "choose": True}, "last"),
        ({"last": "4", "choose": True}, "last"),
        ({"last": 4}, "choose"),
        ({"demonstrate": True}, "choose"),
    ],
)
def test_an_option_that_cannot_be_is_refused(tmp_path, options, field):
    with pytest.raises(ConfigError, match=field):
        only(written(tmp_path), **options)


@pytest.mark.slow
def test_a_real_game_is_won_by_its_walkthrough(tmp_path):
    if importlib.util.find_spec("textworld") is None or importlib.util.find_spec("alfworld") is None:
        pytest.skip("alfworld and textworld are not installed")
    folder = shared("alfworld")
    with tarfile.open(folder / "alfworld_valid.tar.xz") as archive:
        members = [m for m in archive if "/valid_seen/pick_and_place_simple-Book-None-Sofa-229/" in m.name]
        archive.extractall(tmp_path, members, filter="data")
    shutil.copy(folder / "react_prompts.json", tmp_path)
    benchmark = load_alfworld(tmp_path, train="valid_seen", held_out=None, limit=1)
    task = benchmark.train[0]
    outcome = task.attempt(Script(*json.loads(task.file.read_text())["walkthrough"]), "")
    assert outcome.success
    assert task.example
