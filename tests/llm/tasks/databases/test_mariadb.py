"""The database tasks on a MariaDB server of the test's own. Skipped where no server is installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted import SHOP, Script, answer, operation, shared

from memjax.llm.tasks.databases.mariadb import MariaDatabase, check_server
from memjax.llm.tasks.databases.sql import SqlError, fingerprint
from memjax.llm.tasks.lifelong_db import load_lifelong_db
from memjax.types import ConfigError

LAUNCHER = Path(__file__).parents[4] / "experiments" / "launch" / "mariadb.py"
DAEMON = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_server = pytest.mark.skipif(DAEMON is None, reason="needs mariadb-server")

pytest.importorskip("pymysql")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # Why not under pytest's own folder: it is closed to other users, and the server runs as one.
    folder, port = Path("/tmp") / f"memjax-mariadb-{os.getpid()}", free_port()
    command = [sys.executable, str(LAUNCHER), str(folder), "--port", str(port)]
    launched = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, waited = f"127.0.0.1:{port}", time.monotonic() + 60
    while time.monotonic() < waited and launched.poll() is None:
        try:
            check_server(address)
            break
        except ConfigError:
            time.sleep(0.3)
    yield address
    launched.send_signal(signal.SIGTERM)
    launched.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shop(server):
    database = MariaDatabase(SHOP, server)
    yield database
    database.close()


@needs_server
def test_results_are_as_the_answers_have_them(shop):
    assert shop.execute("SELECT 7 / 2, AVG(id), SUM(id), 'a/b;%s' FROM shop") == [(3.5, 2.3333, 7, "a/b;%s")]
    assert shop.execute("SELECT id FROM shop WHERE name = 'pear'; SELECT name FROM shop WHERE id = 2") == [
        ("it's; fig",)
    ]


@needs_server
def test_the_fingerprint_follows_the_table_and_is_that_of_sqlite(shop):
    assert shop.md5() == fingerprint(SHOP.rows)
    shop.execute("UPDATE shop SET name = 'kiwi' WHERE id = 4")
    assert shop.md5() == fingerprint([*SHOP.rows[:2], (4, "kiwi")])
    shop.execute("DELETE FROM shop")
    assert shop.md5() == "None"


@needs_server
@pytest.mark.parametrize(
    "sql",
    [
        "SELEC",
        "DROP TABLE shop",
        "CREATE DATABASE other",
        "USE mysql",
        "SELECT * FROM mysql.user",
        "SELECT 1 INTO OUTFILE '/tmp/stolen'",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE shop",
        "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE shop",
        "SET GLOBAL max_statement_time = 0",
        "GRANT ALL ON *.* TO CURRENT_USER()",
        "SHUTDOWN",
        "SELECT SLEEP(60)",
    ],
)
def test_what_a_model_writes_reaches_its_own_table_alone(shop, sql):
    with pytest.raises(SqlError):
        shop.execute(sql)
    assert shop.execute("SELECT COUNT(*) FROM shop") == [(3,)]


@needs_server
def test_files_of_the_server_cannot_be_read(shop):
    assert shop.execute("SELECT LOAD_FILE('/etc/passwd')") == [(None,)]


@needs_server
def test_nothing_is_left_after_an_attempt(server):
    first, second = MariaDatabase(SHOP, server), MariaDatabase(SHOP, server)
    first.execute("DELETE FROM shop")
    assert second.execute("SELECT COUNT(*) FROM shop") == [(3,)]
    first.close()
    with second._admin.cursor() as cursor:
        assert cursor.execute("SHOW DATABASES LIKE 'memjax%'") == 1
        assert cursor.execute("SELECT user FROM mysql.user WHERE user LIKE 'memjax%'") == 1
    second.close()


@needs_server
def test_an_attempt_is_played_and_graded_on_the_server(server):
    benchmark = load_lifelong_db(shared("lifelongagentbench"), limit=6, seed=1, server=server)
    assert benchmark.about["database"] == "MariaDB"
    graded = {True: 0, False: 0}
    for task in benchmark.train:
        for right in (True, False):
            sql = task.reference if right else "SELECT 'no such thing'"
            rows = task.reference_rows() if right else [("no such thing",)]
            graded[right] += task.attempt(Script(operation(sql), answer(rows)), "").success
    assert graded == {True: 6, False: 0}


def test_a_server_that_is_not_there_is_one_clear_line():
    with pytest.raises(ConfigError, match="expected a MariaDB server"):
        check_server(f"127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match="expected host:port"):
        check_server("localhost")
