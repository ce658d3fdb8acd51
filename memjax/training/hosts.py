"""Several processes that train one run, usually one on each host: how they find each other, and how all end.

Every process runs the same command. JAX joins them into one machine: arrays lie on the devices of all of
them, and each process issues the same computations in the same order. So a process cannot go on without the
others. Each keeps a connection to process 0; where one breaks, every other process ends within a second, with
one line. The same command, launched again everywhere, continues from the newest checkpoint.

Why a connection of our own: JAX notices a lost process after 100 s of missing heartbeats, and then aborts.
"""

import contextlib
import importlib.util
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from memjax.text import first_line
from memjax.types import ConfigError, RunEnded

FINISHED = (0, 130, 143)  # exit codes of a run that all processes end together: done, or saved after a signal
_GONE = 255  # in place of the exit code of a process that told none
_NEWS = struct.Struct(">IB")  # number of a process, its exit code
_HELLO = struct.Struct(">16sI")  # the secret of this launch, number of a process
_GRACE = 1.0  # seconds in which a process may end by itself of the mistake that another one ended of
_CONNECT = 60.0  # seconds to wait for connections of processes that JAX has joined already


class Cluster(NamedTuple):
    """The processes of a run, as a user names them; None: found by JAX, or a process alone."""

    coordinator: str | None = None  # HOST:PORT of process 0, the same in all processes
    num_processes: int | None = None
    process_id: int | None = None  # 0, 1, ..., another one in every process


def join(cluster: Cluster) -> bool:
    """Joins the processes of a run. Must come before JAX touches a device.

    On a Cloud TPU, and under Slurm in a step of several tasks, JAX finds the addresses itself.

    Args:
      cluster: what the user named; `num_processes` 1 alone keeps this process by itself.

    Returns:
      Whether there are several processes.

    Raises:
      ConfigError: some of the three fields are missing, or they do not fit each other.
      RunEnded: the others were not found.
    """
    _check(cluster)
    if cluster.num_processes == 1 or (cluster.coordinator is None and not _found_by_jax()):
        return False
    if not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(*cluster)
        except (RuntimeError, ValueError) as error:
            if cluster.coordinator is None and isinstance(
                error, ValueError
            ):  # a TPU outside of a Cloud TPU VM
                return False
            what = first_line(error, kind=False)
            raise RunEnded(f"the processes of this run did not find each other: {what}") from error
    return jax.process_count() > 1


def together(cluster: Cluster, run: Callable[[], int]) -> int:
    """Calls `run` in every process, and ends this process as soon as another one is gone.

    Args:
      cluster: as `join` was given.
      run: says its own mistakes and returns an exit code; those of `FINISHED` are alike in all processes.

    Returns:
      The exit code, where it is one of `FINISHED`. With another one this process ends here, since JAX would
      wait for the others at its exit.
    """
    watch = _Watch(_connections(cluster))
    try:
        code = run()
    except jax.errors.JaxRuntimeError as error:
        time.sleep(
            2 * _GRACE
        )  # where the cause is a process that is gone, the watch says so and ends this one
        print(f"memjax: error: {first_line(error, kind=False)}", file=sys.stderr)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    watch.tell(code)
    if code in FINISHED:
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(1.5 * _GRACE if jax.process_index() == 0 else 0.0)  # JAX aborts those whose process 0 is gone
    os._exit(code)


def agree(number: int) -> int:
    """The largest of the numbers that the processes give. All must call it."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def is_first() -> bool:
    """Whether this process is the one that writes config, metrics and messages."""
    return jax.process_index() == 0


def _check(cluster: Cluster) -> None:
    """Raises ConfigError where the fields do not make a cluster."""
    coordinator, count, number = cluster
    given = [value is not None for value in cluster]
    if not any(given) or cluster == (None, 1, None):
        return
    for value, name in zip(cluster, ("--coordinator", "--num-processes", "--process-id"), strict=True):
        if value is None:
            raise ConfigError(name, "a value, as another of the three has one", "none")
    assert coordinator is not None
    assert count is not None
    assert number is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError("--coordinator", "HOST:PORT of process 0", f"'{coordinator}'")
    if number >= count:
        raise ConfigError("--process-id", f"0 to {count - 1}, as there are {count} processes", number)


def _found_by_jax() -> bool:
    """Whether JAX can find out by itself which processes belong together."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return True
    devices = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev").glob("vfio/[0-9]*")]
    return bool(devices) and importlib.util.find_spec("libtpu") is not None


def _connections(cluster: Cluster) -> dict[int, socket.socket]:
    """Process 0: the others' connections, by their number. The others: the one to process 0."""
    number, count = jax.process_index(), jax.process_count()
    server, place = None, b""
    if number == 0:
        host = (cluster.coordinator or socket.gethostname()).rpartition(":")[0] or socket.gethostname()
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        server = socket.create_server(("", 0), family=family, backlog=count, dualstack_ipv6=both)
        place = secrets.token_bytes(16) + f"{server.getsockname()[1]} {host.strip('[]')}".encode()
    padded = np.zeros(320, np.uint8)
    padded[: len(place)] = np.frombuffer(place, np.uint8)
    told = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes().rstrip(b"\0")
    secret, (port, _, host) = told[:16], told[16:].decode().partition(" ")
    try:
        if server is None:
            found = {0: socket.create_connection((host, int(port)), _CONNECT)}
            found[0].sendall(_HELLO.pack(secret, number))
        else:
            found = _accepted(server, secret, count)
    except OSError as error:
        raise RunEnded(f"process {number} of {count} cannot be connected with the others: {error}") from error
    for each in found.values():
        each.settimeout(None)
        _keep_alive(each)
    return found


def _accepted(server: socket.socket, secret: bytes, count: int) -> dict[int, socket.socket]:
    found: dict[int, socket.socket] = {}
    server.settimeout(_CONNECT)
    with server:
        while len(found) < count - 1:
            each, _ = server.accept()
            each.settimeout(_CONNECT)
            # Too short, or broken off, or silent: not one of ours.
            with contextlib.suppress(struct.error, OSError):
                said, number = _HELLO.unpack(each.recv(_HELLO.size, socket.MSG_WAITALL))
                if secrets.compare_digest(said, secret):
                    found[number] = each
                    continue
            each.close()
    return found


def _keep_alive(connection: socket.socket) -> None:
    """Lets the system notice within half a minute that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)


class _Watch:
    """A thread that ends this process where another one is gone."""

    def __init__(self, peers: dict[int, socket.socket]):
        self.peers, self.leaving = peers, False
        threading.Thread(target=self._watch, name="memjax-hosts", daemon=True).start()

    def tell(self, code: int, number: int | None = None) -> None:
        """Tells the others with which code this process, or another one, ends."""
        self.leaving |= number is None
        news = _NEWS.pack(jax.process_index() if number is None else number, code)
        for each in self.peers.values():
            with contextlib.suppress(OSError):
                each.sendall(news)

    def _watch(self) -> None:
        ready = selectors.DefaultSelector()
        for number, each in self.peers.items():
            ready.register(each, selectors.EVENT_READ, number)
        while ready.get_map():
            for key, _ in ready.select():
                connection = self.peers[key.data]
                try:
                    data = connection.recv(_NEWS.size, socket.MSG_WAITALL)
                except OSError:
                    data = b""
                number, code = _NEWS.unpack(data) if len(data) == _NEWS.size else (key.data, _GONE)
                if code in FINISHED:  # its connection ends with it
                    ready.unregister(connection)
                else:
                    self._end(number, code)

    def _end(self, number: int, code: int) -> None:
        self.tell(code, number)
        time.sleep(0.0 if code == _GONE else _GRACE)
        if self.leaving:  # with a line of its own
            return
        what = "is gone" if code == _GONE else f"ended with code {code}"
        again = "launch the same command again, in all processes, to continue"
        line = f"memjax: error: process {number} of {jax.process_count()} {what}; {again}\n"
        os.write(2, line.encode())
        os._exit(1)
