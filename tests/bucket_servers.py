"""Servers of buckets on this machine, and a proxy before them that fails as networks and stores do."""

import collections
import contextlib
import http.client
import http.server
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

BUCKET = "slides"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, port):
    """Runs a server until the end of the block; it listens on `port` when the block begins."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, command
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def s3():
    """Moto's S3 server in a process of its own, with the bucket BUCKET; yields its address. Skips without Moto."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    port = free_port()
    with running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        address = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=30).close()
        yield address


def use_s3(address, patch):
    """Makes this process find S3 at an address, by a MonkeyPatch."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address}.items():
        patch.setenv(name, value)


@contextlib.contextmanager
def gcs(folder):
    """gcp-storage-emulator in a process of its own, with the bucket BUCKET; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", f"--data-dir={folder}", "start", "--host=127.0.0.1"]
    with running([*command, f"--port={port}", f"--default-bucket={BUCKET}"], port):
        yield f"http://127.0.0.1:{port}"


class FaultyProxy:
    """An HTTP proxy before a server, with faults for the next requests.

    Attributes:
      address: its address.
      faults: for the next requests that `is_hit` accepts, in this order: 429, 500 or 503 (that answer), "cut" (the
        connection is closed without passing the request on), "lost" (the request is passed on and its answer is not),
        "half" (half of the answer), "slow" (the answer comes after two seconds).
      hit: number of faults by kind.
      is_hit: method and path of a request -> whether it gets a fault.
    """

    def __init__(self, server):
        proxy, host = self, server.removeprefix("http://")
        self.faults, self.hit = collections.deque(), collections.Counter()
        self.is_hit = lambda method, path: True

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    pieces = []
                    while size := int(self.rfile.readline(), 16):
                        pieces.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    body = b"".join(pieces)
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy.faults.popleft() if proxy.faults and proxy.is_hit(self.command, self.path) else None
                proxy.hit[fault] += fault is not None
                if isinstance(fault, int):
                    self.send_response(fault)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "cut":
                    self.close_connection = True
                    return
                if fault == "slow":
                    time.sleep(2)
                connection = http.client.HTTPConnection(host, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name != "Transfer-Encoding"}
                connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if fault == "lost":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                        self.send_header(name, value)
                size = answer.headers["Content-Length"] if self.command == "HEAD" else len(data)
                self.send_header("Content-Length", str(size or 0))
                self.end_headers()
                if fault == "half":
                    data, self.close_connection = data[: len(data) // 2], True
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # the client has closed the connection
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
