"""Files of a user's in another encoding: one line that names file and line, whatever kind of file it is."""

import gzip
import json

import pytest

from memjax.commands.campaign_file import read_campaign
from memjax.config_file import load_config
from memjax.llm.run.imported import _rows
from memjax.llm.tasks.reading import read_json, read_lines
from memjax.runs.imports import import_all
from memjax.text import decoded, first_line
from memjax.types import ConfigError

CONFIG = """from ml_collections import ConfigDict
NAME = "Müller"
def get_config(variant=""):
    return ConfigDict(dict(name=NAME))
"""
ROWS = '{"intent": "a"}\n{"intent": "Grüße"}\n'
KINDS = {  # name of the file, its text (in line 2, something that is not ASCII), how it is read
    "config": ("own.py", CONFIG, lambda path: load_config(str(path)).name),
    "import": ("parts.py", CONFIG, lambda path: import_all([str(path)])),
    "campaign": ("c.toml", 'config = "suite"\n# Größe\n', read_campaign),
    "tasks": ("t.jsonl", ROWS, lambda path: [row["intent"] for _, row in read_lines(path)][1]),
    "rows": ("t.json", '{"a":\n"é"}', lambda path: read_json(path)["a"]),
    "memories": ("m.csv", "intent,text\nä,ö\n", lambda path: next(row["text"] for _, row in _rows(path))),
}
RIGHT = {"config": "Müller", "tasks": "Grüße", "rows": "é", "memories": "ö"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_another_encoding_is_one_line_with_the_place(tmp_path, kind, encoding):
    name, text, read = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    with pytest.raises(ConfigError) as error:
        read(path)
    said = str(error.value)
    assert str(path) in said
    assert "in UTF-8" in said
    got = "UTF-16" if encoding == "utf-16" else "a byte of another encoding in line 2 (0x"
    assert f"got {got}" in said
    assert "codec" not in said


@pytest.mark.parametrize("kind", RIGHT)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, kind):
    name, text, read = KINDS[kind]
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert read(tmp_path / name) == RIGHT[kind]


def test_compressed_tasks_are_named_too(tmp_path):
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(json.dumps("ä", ensure_ascii=False).encode("latin-1")))
    with pytest.raises(ConfigError, match=r"t\.json\.gz: expected a text in UTF-8, got .* in line 1"):
        read_json(path)


def test_python_may_declare_its_encoding(tmp_path):
    path = tmp_path / "own.py"
    declared = f"# -*- coding: latin-1 -*-\n{CONFIG}"
    path.write_bytes(declared.encode("latin-1"))
    assert load_config(str(path)).name == "Müller"
    path.write_bytes(declared.replace("latin-1", "ascii").encode())
    with pytest.raises(ConfigError, match="in the encoding that it declares, got another one"):
        load_config(str(path))
    path.write_bytes(declared.replace("latin-1", "klingon").encode())
    with pytest.raises(ConfigError, match="unknown encoding: klingon"):
        load_config(str(path))


def test_the_line_is_counted_in_bytes_and_mac_files_have_one():
    for raw, line in ((b"\xe9", 1), (b"a\r\nb\r\n\xe9", 3), (b"a\rb\r\xe9", 1), (b"\xc3\xa9\n\xc3(", 2)):
        with pytest.raises(ConfigError, match=f"in line {line} "):
            decoded(raw, "x")


@pytest.mark.parametrize("kind", [True, False])
def test_an_error_without_words_is_told_by_its_name(kind):
    assert first_line(TimeoutError(), kind=kind) == "TimeoutError"
    assert first_line(ValueError(" \n"), kind=kind) == "ValueError"
    said = first_line(OSError("no space\nin line 2"), kind=kind)
    assert said == ("OSError: no space" if kind else "no space")
