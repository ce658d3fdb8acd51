"""A server on this machine that speaks as much of Cloud Storage's JSON interface as memjax's clients use.

Those are TensorStore's own client, gcsfs and google-cloud-storage; `environment` points those of a process to
the server. Objects are kept in memory. Each has a generation, and a write with `ifGenerationMatch` succeeds
for that one alone.
"""

import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)(?:/rewriteTo/b/([^/]+)/o/([^/]+))?")
LISTING = re.compile(r"(/upload)?/storage/v1/b/([^/]+)/o/?")
BUCKET = re.compile(r"/storage/v1/b/([^/]+)")


class GCSServer(ThreadingHTTPServer):
    """Serves buckets, all of which exist, until `close`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str], tuple[int, bytes]] = {}  # by bucket and name
        self.uploads: dict[str, bytes] = {}  # those that are under way, of several parts
        self.generations, self.lock = itertools.count(1), threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the processes that shall take this server for Cloud Storage."""
        address = f"http://127.0.0.1:{self.server_port}"
        return {
            "TENSORSTORE_GCS_HTTP_URL": address,
            "STORAGE_EMULATOR_HOST": address,
            "GOOGLE_CLOUD_PROJECT": "none",
            "FSSPEC_GCS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "NO_GCE_CHECK": "true",
        }

    def read(self, name: str) -> bytes:
        """An object by its address without `gs://`."""
        return self.objects[tuple(name.split("/", 1))][1]

    def handle_error(self, request, client_address):
        """Nothing: a client that was killed has closed its connection."""

    def close(self) -> None:
        """Ends the threads."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GCSServer

    def log_message(self, format, *arguments):
        pass

    def do_GET(self):
        url, query = self._asked()
        if found := OBJECT.fullmatch(url):
            self._read((found[1], unquote(found[2])), query)
        elif found := LISTING.fullmatch(url):
            self._list(found[2], query)
        elif found := BUCKET.fullmatch(url):
            self._answer({"kind": "storage#bucket", "id": found[1], "name": found[1]})
        else:
            self._answer({}, 404)

    def do_POST(self):
        url, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if (found := OBJECT.fullmatch(url)) and found[3]:
            source = self.server.objects.get((found[1], unquote(found[2])))
            if source is None:
                return self._answer({}, 404)
            resource = self._write((found[3], unquote(found[4])), source[1], query)
            return self._answer({"done": True, "resource": resource})
        found = LISTING.fullmatch(url)
        if "upload" in query:  # gcsfs sends the parts of an upload so, others with PUT
            return self._continue(url, query, body)
        if not found or not found[1]:
            return self._answer({}, 404)
        name = query.get("name", "")
        if query["uploadType"] == "resumable":
            number = str(next(self.server.generations))
            self.server.uploads[number] = b""
            place = f"{self.server.environment['STORAGE_EMULATOR_HOST']}{self.path}&upload={number}"
            return self._send(b"", 200, {"Location": place})
        if query["uploadType"] == "multipart":
            about, body = _parts(body)
            name = json.loads(about)["name"]
        resource = self._write((found[2], name), body, query)
        return self._answer(resource or {}, 200 if resource else 412)

    def do_PUT(self):
        url, query = self._asked()
        return self._continue(url, query, self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _continue(self, url, query, body):
        content = self.server.uploads[query["upload"]] + body
        self.server.uploads[query["upload"]] = content
        if self.headers.get("Content-Range", "").endswith("/*"):  # more is to come
            return self._send(b"", 308, {"Range": f"bytes=0-{len(content) - 1}"})
        resource = self._write((LISTING.fullmatch(url)[2], query["name"]), content, query)
        return self._answer(resource or {}, 200 if resource else 412)

    def do_DELETE(self):
        url, query = self._asked()
        found = OBJECT.fullmatch(url)
        key = (found[1], unquote(found[2]))
        with self.server.lock:
            there = self.server.objects.get(key, (0, b""))
            code = 404 if not there[0] else 204 if _may(there[0], query) else 412
            if code == 204:
                del self.server.objects[key]
        self._send(b"", code)

    def _asked(self):
        url = urlsplit(self.path)
        return url.path, {name: values[0] for name, values in parse_qs(url.query).items()}

    def _write(self, key, content, query):
        """What an upload answers; None where the object has another generation than was expected."""
        with self.server.lock:
            if not _may(self.server.objects.get(key, (0, b""))[0], query):
                return None
            self.server.objects[key] = next(self.server.generations), content
            return self._about(key)

    def _about(self, key):
        generation, content = self.server.objects[key]
        about = {"kind": "storage#object", "bucket": key[0], "name": key[1], "size": str(len(content))}
        dates = {"updated": "2026-01-01T00:00:00.000Z", "timeCreated": "2026-01-01T00:00:00.000Z"}
        return about | dates | {"generation": str(generation), "metageneration": "1"}

    def _read(self, key, query):
        if key not in self.server.objects:
            return self._answer({}, 404)
        if query.get("alt") != "media":
            return self._answer(self._about(key))
        generation, content = self.server.objects[key]
        if query.get("ifGenerationNotMatch") == str(generation):
            return self._send(b"", 304)
        if not _may(generation, query):
            return self._answer({}, 412)
        headers, code = {"x-goog-generation": str(generation)}, 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(found[1]), int(found[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            if first >= len(content):
                return self._answer({}, 416)
            content, code = content[first : last + 1], 206
        return self._send(content, code, headers)

    def _list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], {}
        for key in sorted(self.server.objects):
            name = key[1]
            ends = (query.get("startOffset", "") > name) or (
                "endOffset" in query and name >= query["endOffset"]
            )
            if key[0] != bucket or not name.startswith(prefix) or ends:
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                prefixes[f"{prefix}{head}{delimiter}"] = None
            else:
                items.append(self._about(key))
        self._answer({"kind": "storage#objects", "items": items, "prefixes": list(prefixes)})

    def _answer(self, values, code=200):
        self._send(json.dumps(values).encode(), code, {"Content-Type": "application/json"})

    def _send(self, content, code=200, headers=None):
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _may(generation, query):
    """Whether the condition of a request holds for an object; generation 0 stands for none."""
    return query.get("ifGenerationMatch", str(generation)) == str(generation)


def _parts(body):
    """The two parts of what gcsfs uploads: JSON, and the content."""
    _, about, content = body.split(b"--==0==", 2)
    content = content.removesuffix(b"\n--==0==--")
    return about.partition(b"\n\n")[2], content.partition(b"\n\n")[2]
