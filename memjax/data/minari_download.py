"""Fetches a dataset of Minari by its id, with the package `minari` and from the server that it is set to.

Nothing is asked of the network before a user names a dataset that is not on this machine. The environment
variables MINARI_REMOTE (the server) and MINARI_DATASETS_PATH (the folder) are minari's own.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from memjax.data.hdf5 import shown
from memjax.data.minari_reader import local_root
from memjax.text import first_line
from memjax.types import ConfigError

_ID = re.compile(r"(?:[\w-]+/)*[\w-]+-v\d+")  # NAMESPACE/NAME-vNUMBER, the namespace optional
_EXTRA = "pip install 'memjax[minari]'"


def is_id(name: str) -> bool:
    """Whether a name has the form of Minari's ids, such as "mujoco/hopper/medium-v0"."""
    return _ID.fullmatch(name) is not None


def download(id: str) -> Path:
    """Fetches a dataset into the folder where `minari` keeps them, and returns its own folder there.

    Raises:
        ConfigError: `minari` or its client is not installed, the server cannot be reached, or it has no such
            dataset.
    """
    folder = local_root() / id
    try:
        import minari

        print(f"{id}: not on this machine; minari fetches it", flush=True)
        with _without_warnings():  # its client tries for half a minute and logs each attempt twice
            minari.download_dataset(id)
    except ImportError as error:
        expected = f"a dataset in {shown(local_root())}, or minari and its client to fetch it, from: {_EXTRA}"
        raise ConfigError(shown(id), expected, first_line(error, kind=False)) from error
    except Exception as error:  # the client of a server may raise anything
        expected = f"a dataset in {shown(local_root())}, or on Minari's server"
        raise ConfigError(shown(id), expected, first_line(error)) from error
    if not folder.is_dir():
        raise ConfigError(shown(id), f"minari to put the dataset into {shown(folder)}", "nothing there")
    return folder


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
