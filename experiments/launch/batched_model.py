"""Serves a language model from one GPU to many clients at once, OpenAI-compatible, on loopback, until Ctrl-C.

  pip install torch transformers gguf
  python experiments/launch/batched_model.py MODEL.gguf
  python -m experiments.language_benchmarks play ... --processes 16

For campaigns whose arms run at the same time, as processes of their own: requests that wait are run together,
so that some 200 in flight get many times the tokens a second of one. `local_model.py` serves the same file on
a CPU. Weights of a quantised file are expanded to --dtype.

`batched_slots.py` says how. Prompts that are too long for a slot go to a second set of slots, fewer and
longer. The same request gets the same reply, computed once: replies of batches of other sizes could differ in
a token where two are nearly equally likely.

Requests take messages, max_tokens, temperature and seed; no streaming, tools, or choices beside the first.
"""

import argparse
import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from batched_slots import Answer, Model, Request, Slots, torch


class Engine:
    """Answers requests from many threads in one that runs the model."""

    def __init__(self, model: Model, pools: Sequence[Slots]):
        self.model, self.pools = model, sorted(pools, key=lambda pool: pool.context)
        self._known: dict[bytes, Future[Answer]] = {}
        self._lock, self._wake = threading.Lock(), threading.Event()
        self.error = ""

    def ask(self, ids: np.ndarray, max_tokens: int, temperature: float, seed: int) -> Future[Answer]:
        """The answer to come. Raises ValueError where the request is too long for every slot."""
        seed = seed if temperature > 0.0 else 0
        settings = json.dumps([max_tokens, temperature, seed]).encode()
        key = hashlib.sha256(settings + ids.tobytes()).digest()
        # One place of a slot is for padding.
        fits = [pool for pool in self.pools if len(ids) + max_tokens < pool.context]
        if not fits:
            limit = self.pools[-1].context - 1
            raise ValueError(f"{len(ids)} tokens and a reply of {max_tokens}: the context holds {limit}")
        with self._lock:
            if key not in self._known:
                request = Request(ids, max_tokens, temperature, seed)
                self._known[key] = request.answer
                fits[0].waiting.append(request)
                self._wake.set()
            return self._known[key]

    def run(self) -> None:
        """Never returns, unless the model fails; all requests fail then too."""
        try:
            while True:
                if not any([pool.advance() for pool in self.pools]):
                    self._wake.wait(0.5)
                    self._wake.clear()
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            with self._lock:
                for answer in self._known.values():
                    if not answer.done():
                        answer.set_exception(RuntimeError(self.error))
            raise


def handler(engine: Engine, name: str) -> type[BaseHTTPRequestHandler]:
    """The HTTP side of an engine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            counts = {x: sum(getattr(p, x) for p in engine.pools) for x in ("read", "copied", "written")}
            model = {"id": name, "object": "model"}
            self._send(200, {"object": "list", "data": [model], "tokens": counts})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                if engine.error:
                    raise RuntimeError(engine.error)
                self._send(200, self._answer(json.loads(body)))
            except (KeyError, TypeError, ValueError) as error:
                self._send(400, {"error": {"message": f"{type(error).__name__}: {error}"}})
            except RuntimeError as error:
                self._send(500, {"error": {"message": str(error)}})

        def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
            if asked.get("stream") or asked.get("n", 1) != 1:
                raise ValueError("stream and n are not served")
            ids = engine.model.encode(asked["messages"])
            settings = float(asked.get("temperature", 0.0)), int(asked.get("seed") or 0)
            tokens, finish = engine.ask(ids, int(asked["max_tokens"]), *settings).result()
            message = {"role": "assistant", "content": engine.model.decode(tokens)}
            usage = {"prompt_tokens": len(ids), "completion_tokens": len(tokens)}
            usage["total_tokens"] = len(ids) + len(tokens)
            choice = {"index": 0, "message": message, "finish_reason": finish}
            head = {"id": "chat", "object": "chat.completion", "created": int(time.time()), "model": name}
            return head | {"choices": [choice], "usage": usage}

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    """As many threads as requests in flight; they wait."""

    daemon_threads = True
    request_queue_size = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL.gguf", help="or a folder of transformers'")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="saved before, to start faster")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--slots", type=int, default=256, help="requests at a time")
    parser.add_argument("--context", type=int, default=2048, help="tokens of such a request")
    parser.add_argument("--long-slots", type=int, default=0, help="longer requests at a time")
    parser.add_argument("--long-context", type=int, default=12288)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--memory", type=float, help="GB of the device that may be taken")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    arguments = parser.parse_args()
    if not arguments.model.exists():
        sys.exit(f"batched_model.py: {arguments.model}: expected a model, got nothing there")
    cuda = arguments.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        sys.exit(f"batched_model.py: --device {arguments.device}: expected a GPU, got none (--device cpu?)")
    if cuda:  # cuDNN's attention would be planned anew for every shape
        torch.backends.cuda.enable_cudnn_sdp(False)
    if cuda and arguments.memory:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(arguments.memory * 1e9 / total, 1.0))
    sys.setswitchinterval(0.0005)  # the thread that runs the model is to wait little for the others
    began = time.monotonic()
    dtype = getattr(torch, arguments.dtype)
    model = Model.load(arguments.model, arguments.tokenizer, arguments.device, dtype)
    sizes = [(arguments.slots, arguments.context), (arguments.long_slots, arguments.long_context)]
    eager = arguments.eager or not cuda
    engine = Engine(model, [Slots(model, n, context, eager=eager) for n, context in sizes if n])
    server = Server(("127.0.0.1", arguments.port), handler(engine, arguments.model.stem))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{arguments.port}/v1"
    print(f"{where} serves {arguments.model.name} ({time.monotonic() - began:.0f} s to load)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        engine.run()


if __name__ == "__main__":
    main()
