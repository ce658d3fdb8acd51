"""Pictures of results from the CSV beside them."""

import shutil

import matplotlib.image
import pytest

from experiments import redraw
from experiments.study import RESULTS


@pytest.mark.parametrize("name", ["atari", "dark_chamber", "spoiled_memories"])
def test_a_picture_is_drawn_from_its_rows_alone(name, tmp_path):
    folder = shutil.copytree(RESULTS / name, tmp_path / name, ignore=shutil.ignore_patterns("*.png"))
    redraw.DRAWN[name](folder)
    [picture] = folder.glob("*.png")
    assert matplotlib.image.imread(picture).std() > 0.05
    texts = {path.name: path.read_text() for path in RESULTS.glob(f"{name}/*.md")}
    assert {path.name: path.read_text() for path in folder.glob("*.md")} == texts  # the committed tables


def test_every_folder_with_a_picture_can_be_drawn_again():
    assert {path.parent.name for path in RESULTS.glob("*/*.png")} <= redraw.DRAWN.keys()


def test_an_unknown_folder_is_named(capsys):
    with pytest.raises(SystemExit):
        redraw.main(["fourrooms"])
    assert "got fourrooms" in capsys.readouterr().err
