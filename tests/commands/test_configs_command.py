"""`memjax configs`, and configs by name, by path, and of one's own that start from a shipped one."""

import dataclasses

import pytest

from memjax import cli
from memjax.commands.configs import comments_of, description
from memjax.config_file import load_config, shipped_configs
from memjax.training.config import RunConfig, resolve
from memjax.types import ConfigError


def test_every_shipped_config_has_its_line(capsys):
    assert cli.main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line][:-1] == shipped_configs()
    assert all(len(line.split()) > 4 for line in lines if line)


def test_one_config_is_explained(capsys):
    assert cli.main(["configs", "classic:gymnax+ppo"]) == 0
    text = capsys.readouterr().out
    assert "env.id = 'gymnax/CartPole-v1'" in text
    assert "agent.name = 'ppo'" in text
    assert "agent.encoder = 'mlp'" in text
    assert "mlp | conv" in text
    lines = text.splitlines()
    (line,) = [line for line in lines if line.startswith("run.checkpoint_every = 50")]
    assert line.endswith("# iterations between checkpoints; 0: at the end alone")
    assert "  CartPole Acrobot MountainCar MountainCarContinuous gymnax" in lines


@pytest.mark.parametrize("name", shipped_configs())
def test_fields_are_those_that_can_be_set(name):
    """Each printed field can be given back as `--config.FIELD=VALUE` and is then what it was."""
    config = load_config(name)
    for line in description(name).splitlines():
        field, equals, text = line.partition(" = ")
        if equals and not field.startswith(" "):
            value = text.partition("  # ")[0].strip().strip("'")
            if value != "{}":  # a section without fields
                load_config(name, [(field, value)])
    assert config.is_locked


def test_comments_are_read_from_the_source_of_a_section():
    @dataclasses.dataclass(frozen=True)
    class Section:
        """Not a field: # no comment."""

        plain: int
        said: str  # what it is  # and more
        long: tuple[
            int, ...  # in the middle
        ]
        # Of the next field,
        # whole.
        above: int

    assert comments_of(Section) == {
        "said": "what it is  # and more",
        "long": "in the middle",
        "above": "Of the next field, whole",
    }
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    assert comments_of(RunConfig).keys() == fields


def test_a_file_of_three_lines_starts_from_a_shipped_config(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from memjax.configs import cliff_walking\n"
        "def get_config(variant=''):\n"
        "    config = cliff_walking.get_config(variant); config.run.eval_envs = 7; return config\n"
    )
    whole, changed = resolve(load_config("cliff_walking:rnd")), resolve(load_config(f"{file}:rnd"))
    assert changed.raw["run"].pop("eval_envs") == 7
    whole.raw["run"].pop("eval_envs")
    assert changed.raw == whole.raw


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("four_room", r"a shipped config \(did you mean 'four_rooms'\?\)"),
        ("base", "one of atari|did you mean"),
        ("zzz", "one of atari, classic, cliff_walking, dark_chamber, four_rooms"),
        ("four_rooms:nothing", "a variant, one of advantage, coarse"),
        ("four_rooms/", "a config file FILE.py"),
        ("../four_rooms", "a config file FILE.py"),
        ("os.path", "a shipped config"),
    ],
)
def test_a_wrong_name_is_refused(source, message):
    with pytest.raises(ConfigError, match=message):
        load_config(source)


def test_a_config_that_ends_the_process_is_a_mistake(tmp_path, capsys):
    for number, text in enumerate(["import sys; sys.exit(0)", "def get_config(): raise SystemExit"]):
        file = tmp_path / f"c{number}.py"
        file.write_text(text)
        assert cli.main(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 2
        assert "SystemExit" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_config_of_the_other_command_is_named(tmp_path, capsys):
    assert cli.main(["train", "--config=language", str(tmp_path / "run")]) == 2
    assert "'language', which is one of `memjax remember`" in capsys.readouterr().err
    assert cli.main(["remember", "--config=four_rooms", str(tmp_path / "run")]) == 2
    assert "a config of `memjax remember`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
