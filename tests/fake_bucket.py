"""A bucket of Cloud Storage on the disk of this machine, as etils, TensorStore and Orbax see it.

An object is a file below `root`; its name, with slashes, is the path. As in a bucket there is nothing but
whole objects: no append, no file that is half written, no folder without objects, no rename but copying and
deleting one object after the other. What TensorStore writes goes to the same files by itself.
"""

import fnmatch
import io
from pathlib import Path

import pytest
from etils.epath import gpath
from etils.epath.backend import Backend
from etils.epath.stat_utils import StatResult
from orbax.checkpoint._src.path import gcs_utils

from memjax.runs import lease, places, stored


class FakeBucket(Backend):
    """What `gs://NAME/...` is to etils."""

    def __init__(self, root: Path):
        self.root, self.log = root, []

    def place(self, path) -> Path:
        """Where an object, or what its name begins with, lies on disk."""
        return self.root / str(path).removeprefix("gs://")

    def open(self, path, mode):
        if mode.startswith("r"):
            content = self.place(path).read_bytes()
            return io.BytesIO(content) if "b" in mode else io.StringIO(content.decode())
        assert mode in ("w", "wb"), "an object cannot grow"
        return (
            _Upload(self, path) if "b" in mode else io.TextIOWrapper(_Upload(self, path), write_through=True)
        )

    def exists(self, path):
        place = self.place(path)
        return place.is_file() or self.isdir(path)

    def isdir(self, path):
        return any(each.is_file() for each in self.place(path).rglob("*"))

    def listdir(self, path):
        if not self.isdir(path):
            raise FileNotFoundError(path)
        return [each.name for each in self.place(path).iterdir() if self.exists(f"{path}/{each.name}")]

    def glob(self, path):
        found = [f"gs://{each.relative_to(self.root)}" for each in self.root.rglob("*")]
        same_depth = [each for each in found if each.count("/") == str(path).count("/") and self.exists(each)]
        return [each for each in same_depth if fnmatch.fnmatchcase(each, str(path))]

    def walk(self, top, *, top_down=True, on_error=None):
        raise NotImplementedError

    def makedirs(self, path, *, exist_ok=False, mode=None):
        if not exist_ok and self.exists(path):
            raise FileExistsError(path)

    mkdir = makedirs

    def rmtree(self, path):
        if not self.isdir(path):
            raise FileNotFoundError(path)
        for each in sorted(self.place(path).rglob("*")):
            if each.is_file():
                self.remove(f"gs://{each.relative_to(self.root)}")

    def remove(self, path):
        self.place(path).unlink()
        self.log.append(f"remove {path}")

    def rename(self, path, dst):
        if self.exists(dst):
            raise FileExistsError(dst)
        for each in sorted(self.place(path).rglob("*")):
            if each.is_file():
                name = each.relative_to(self.place(path))
                self.put(f"{dst}/{name}", each.read_bytes())
                self.remove(f"{path}/{name}")

    def replace(self, path, dst):
        raise AssertionError("a bucket renames nothing")

    def copy(self, path, dst, overwrite):
        raise NotImplementedError

    def stat(self, path):
        place = self.place(path)
        if not self.exists(path):
            raise FileNotFoundError(path)
        if not place.is_file():
            return StatResult(is_directory=True, length=0, mtime=0)
        return StatResult(is_directory=False, length=place.stat().st_size, mtime=int(place.stat().st_mtime))

    def put(self, path, content: bytes):
        """An object as a whole."""
        place = self.place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        self.log.append(f"put {path}")


class _Upload(io.BytesIO):
    """What is written appears when the file is closed, and not before."""

    def __init__(self, bucket, path):
        super().__init__()
        self._bucket, self._path = bucket, path

    def close(self):
        if not self.closed:
            self._bucket.put(self._path, self.getvalue())
        super().close()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket `gs://bucket` for all that memjax and Orbax do in this process."""
    fake = FakeBucket(tmp_path / "stores")
    url = lambda folder: f"file://{fake.place(folder)}/"  # noqa: E731
    for module in (places, lease, stored):
        monkeypatch.setattr(module, "kvstore_url", url)
    monkeypatch.setattr(places, "PACKAGES", ("json",))
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", fake)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    spec = lambda path: {"driver": "file", "path": str(fake.place(path))}  # noqa: E731
    monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", spec)
    return fake
