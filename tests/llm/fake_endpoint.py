"""A local HTTP server that answers as the test tells it, in place of an OpenAI-compatible endpoint."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from memjax.llm.clients.config import EndpointConfig

KEY = "sk-a-secret-that-must-not-be-seen"
KEY_ENV = "MEMJAX_TEST_KEY"


def chat_answer(text="hello", **choice):
    """A well-formed answer."""
    message = {"role": "assistant", "content": text} | choice.pop("message", {})
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | choice],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


class Answer:
    """One answer of the server."""

    def __init__(self, body=None, status=200, headers=None, delay=0.0, drip=0.0, raw=None):
        self.raw = json.dumps(body).encode() if raw is None else raw
        self.status, self.headers, self.delay, self.drip = status, headers or {}, delay, drip


def error(status, message="no", code=None, **more):
    """An error as OpenAI writes it."""
    return Answer({"error": {"message": message, "code": code}}, status, **more)


@contextlib.contextmanager
def serve(*answers):
    """A server that gives these answers in turn, the last one for ever; yields (base_url, requests)."""
    requests, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                answer = answers[min(len(requests), len(answers) - 1)]
                requests.append((self.path, dict(self.headers), json.loads(body)))
            if callable(answer):
                answer = answer(json.loads(body))
            time.sleep(answer.delay)
            self.send_response(answer.status)
            headers = {"content-type": "application/json", "content-length": str(len(answer.raw))}
            for name, value in (headers | answer.headers).items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self._write(answer)
            if answer.headers.get("content-length", "") is None:
                self.close_connection = True

        def _write(self, answer):
            if not answer.drip:
                self.wfile.write(answer.raw)
                return
            for byte in answer.raw:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(answer.drip)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()


def endpoint(base_url, **changes):
    """The config of an endpoint whose retries take no time."""
    values = dict(
        base_url=base_url,
        model="tiny",
        key_env=KEY_ENV,
        timeout=5.0,
        retries=2,
        backoff=0.01,
        max_wait=0.5,
    )
    return EndpointConfig(**(values | changes))
