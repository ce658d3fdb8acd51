"""Starts a MariaDB server on loopback for LifelongAgentBench's database tasks, until Ctrl-C.

  sudo apt-get install mariadb-server
  python experiments/launch/mariadb.py runs/mariadb
  memjax remember --config=language:lifelong_db --workdir=runs/language/db \\
      --config.benchmark.options.server=127.0.0.1:3307

The folder holds the server's files and is made where there is none. The administrator is root without a
password, reached from this machine alone; the server is for these tasks and for nothing else.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=3307)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    programs = [_program(name) for name in ("mariadb-install-db", "mariadbd")]
    owner = ["--user=mysql"] if os.geteuid() == 0 else []
    data, files = folder / "data", folder / "files"
    files.mkdir(parents=True, exist_ok=True)  # stays empty: the one folder that statements may read
    if not (data / "mysql").is_dir():
        data.mkdir(parents=True, exist_ok=True)
        if owner:
            shutil.chown(data, "mysql")
            shutil.chown(folder, "mysql")
        made = subprocess.run(
            [
                programs[0],
                "--no-defaults",
                *owner,
                f"--datadir={data}",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            shutil.rmtree(data)
            sys.exit(f"mariadb.py: {folder}: {(made.stderr or made.stdout).strip().splitlines()[-1]}")
    server = subprocess.Popen(
        [
            programs[1],
            "--no-defaults",
            *owner,
            f"--datadir={data}",
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            f"--port={arguments.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--local-infile=0",
            f"--secure-file-priv={files}",
            "--innodb-flush-log-at-trx-commit=0",  # tables here live for one attempt
        ],
        start_new_session=True,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.terminate())
    print(f"127.0.0.1:{arguments.port} serves {folder}; Ctrl-C ends it", flush=True)
    sys.exit(server.wait())


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        sys.exit(f"mariadb.py: {name}: expected on the path (apt-get install mariadb-server), got nothing")
    return found


if __name__ == "__main__":
    main()
