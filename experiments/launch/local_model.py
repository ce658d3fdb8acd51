"""Starts a local language model behind an OpenAI-compatible endpoint on loopback, until Ctrl-C.

  pip install xllamacpp
  python experiments/launch/local_model.py MODEL.gguf
  memjax remember --config=language:lifelong_db+local --workdir=runs/language/db

Any chat model in GGUF format will do; the configs name Qwen2.5-Coder-1.5B-Instruct (Q4_K_M, 1.1 GB). The
prompt's beginning is kept between requests, which is why the prompts of memjax begin alike. One request at a
time is fastest on a CPU; with --parallel the context is shared among as many, and language.concurrency should
be as large. Another server serves as well:

  llama-server -m MODEL.gguf --port 8080 -c 8192 -np 1
  vllm serve MODEL --port 8080
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--context", type=int, default=8192, help="tokens, of all parallel requests together")
    parser.add_argument("--parallel", type=int, default=1, help="requests at a time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        sys.exit(f"local_model.py: {arguments.model}: expected a GGUF file, got nothing there")
    server = start(arguments)
    print(f"{server.listening_address}/v1 serves {arguments.model.name}; Ctrl-C ends it", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


def start(arguments: argparse.Namespace) -> Any:
    """The server, running in threads of its own."""
    try:
        import xllamacpp  # type: ignore[import-not-found]  # no dependency of memjax's
    except ImportError:
        sys.exit("local_model.py: expected the package xllamacpp (pip install xllamacpp), got none")
    # Why before the server: its threads inherit the mask, so that the signals wait for this thread.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    params = xllamacpp.CommonParams()
    params.model.path = str(arguments.model)
    if hasattr(params, "hostnames"):  # xllamacpp since 2026
        params.hostnames = ["127.0.0.1"]
    else:
        params.hostname = "127.0.0.1"
    params.port = arguments.port
    params.n_ctx, params.n_parallel = arguments.context, arguments.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = arguments.threads
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
