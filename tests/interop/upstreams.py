"""Real servers behind the proxy: nginx, Node and Python. What they send arrives as they sent it, in both directions, at
constant memory."""

import gzip
import hashlib
import http.client
import re
import subprocess
import time

from harness import (HERE, Handler, Server, StandIns, Valetd, ask, check, eventually, folder, free_port, must, need,
                     need_node, run, same, spawn, until_listening)

BIG = 100 * 1000 * 1000
BLOCK = (b"valetd " * (1 << 18))[: 1 << 20]
# What streaming 100 MB may add to the daemon's memory, in kB.
MEMORY = 24_000


def big_hash():
    hashed, left = hashlib.sha256(), BIG
    while left:
        piece = BLOCK[: min(left, len(BLOCK))]
        hashed.update(piece)
        left -= len(piece)
    return hashed.hexdigest()


class Python(Handler):
    """The same API in Python's own HTTP server."""

    def setup(self):
        super().setup()
        self.server.connections += 1
        self.number = self.server.connections

    def end_headers(self):
        self.send_header("X-Connection", str(self.number))
        super().end_headers()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/tick":
            waiting = list(self.server.listeners)
            for listener in waiting:
                listener.wfile.write(f"data: {query.removeprefix('n=')}\n\n".encode())
            return self.answer(200, str(len(waiting)).encode())
        if not self.headers.get("Authorization", "").startswith("Bearer eyJ"):
            return self.answer(401)
        match path:
            case "/hello":
                self.answer(200, b"hello\n")
            case "/nothing":
                self.answer(204)
            case "/gzip":
                self.answer(200, gzip.compress(b"a" * 100_000), Content_Encoding="gzip")
            case "/moved":
                self.answer(302, Location=f"http://{self.headers['Host']}/hello?moved=1")
            case "/elsewhere":
                self.answer(302, Location="http://elsewhere.example/hello")
            case "/upload":
                hashed = hashlib.sha256()
                for piece in self.body():
                    hashed.update(piece)
                self.answer(200, hashed.hexdigest().encode())
            case "/big":
                self.big(int(query.removeprefix("length=")))
            case "/chunked":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.send_header("Trailer", "X-After")
                self.end_headers()
                for n in range(1000):
                    piece = f"{n}\n".encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\nX-After: all\r\n\r\n")
            case "/events":
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")  # an answer that ends with its connection
                self.end_headers()
                self.close_connection = True
                self.server.listeners.append(self)
                try:
                    self.rfile.read(1)
                finally:
                    self.server.listeners.remove(self)
            case _:
                self.answer(404)

    do_HEAD = do_PUT = do_POST = do_GET

    def big(self, length):
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2])) if asked else (0, length - 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{length}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        at = first
        while self.command != "HEAD" and at <= last:
            start = at % len(BLOCK)
            piece = BLOCK[start:][: last - at + 1]
            self.wfile.write(piece)
            at += len(piece)


def start_node():
    child = spawn([need_node(), HERE / "upstream.mjs"], stdout=subprocess.PIPE, text=True)
    return child.stdout.readline().strip()


def start_python():
    server = Server(Python)
    server.connections, server.listeners = 0, []
    return server.url


def start_nginx():
    place, port = folder("nginx"), free_port()
    (place / "www").mkdir()
    with open(place / "www" / "big", "wb") as file:
        left = BIG
        while left:
            left -= file.write(BLOCK[: min(left, len(BLOCK))])
    (place / "www" / "gzip").write_bytes(b"a" * 100_000)
    (place / "www" / "hello").write_bytes(b"hello\n")
    (place / "www" / "chunked").write_text("".join(f"{n}\n" for n in range(1000)))
    for path in (place, place / "www"):
        path.chmod(0o755)
    (place / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; default_type text/plain;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
  keepalive_timeout 1s; keepalive_requests 7;
  # nginx compresses nothing for a request that carries Via, unless told so
  gzip on; gzip_proxied any; gzip_types text/plain; gzip_min_length 1000;
  server {{
    listen 127.0.0.1:{port}; root {place}/www;
    add_header X-Connection $connection always;
    if ($http_authorization !~ "^Bearer eyJ") {{ return 401; }}
    location = /nothing {{ return 204; }}
    location = /moved {{ return 302 $scheme://$http_host/hello?moved=1; }}
    location = /elsewhere {{ return 302 http://elsewhere.example/hello; }}
  }}
}}
""")
    child = spawn([need("nginx"), "-p", place, "-c", place / "nginx.conf"], log=place / "out.log")
    until_listening(port, child)
    return f"http://127.0.0.1:{port}"


UPSTREAMS = {"nginx": start_nginx, "node": start_node, "python": start_python}


def main():
    stand_ins = StandIns()
    urls = {}
    for name, start in UPSTREAMS.items():
        with check(f"{name} starts"):
            urls[name] = start()
    routes = "".join(f'[route.{name}]\naccount = "gbdx"\nupstream = "{url}"\n' for name, url in urls.items())
    valetd = Valetd(stand_ins.config() + routes).start()
    stand_ins.sign_in(valetd)
    expected = big_hash()
    place = folder("curl")

    def memory():
        status = open(f"/proc/{valetd.child.pid}/status").read()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1])

    def curl(*words):
        return must([need("curl"), "-sS", "--fail-with-body", *words])

    for name, url in urls.items():
        base = valetd.url(name)

        with check(f"{name}: the twin, asked directly without a token, refuses"):
            same(ask(url + "/hello")[0], 401, "the answer")

        with check(f"{name}: connections are kept alive on both sides"):
            connection = http.client.HTTPConnection("127.0.0.1", valetd.port, timeout=30)
            numbers = []
            for _ in range(30):
                connection.request("GET", f"/{name}/hello")
                answer = connection.getresponse()
                same((answer.status, answer.read()), (200, b"hello\n"))
                numbers.append(answer.headers["X-Connection"])
            connection.close()
            for _ in range(30):  # and every curl is a connection of its own
                status, headers, _ = ask(base + "hello")
                same(status, 200)
                numbers.append(headers["X-Connection"])
            # each of two workers has its own; nginx gives up a connection after seven requests
            most = 12 if name == "nginx" else 4
            assert len(set(numbers)) <= most, f"{len(set(numbers))} connections for {len(numbers)} requests"

        with check(f"{name}: chunked answers, with their trailers"):
            words = "".join(f"{n}\n" for n in range(1000))
            same(curl(base + "chunked"), words, "the body")
            if name != "nginx":
                # only to a client that says it can use them (RFC 9110 section 6.5.1)
                wanted = ["-H", "TE: trailers", "-H", "Connection: TE"]
                head = curl(*wanted, "-D", "-", "-o", "/dev/null", base + "chunked")
                assert "x-after: all" in head.lower(), f"no trailer in {head!r}"

        with check(f"{name}: gzip passes unpacked by nobody but the client"):
            status, headers, body = ask(base + "gzip", headers={"Accept-Encoding": "gzip"})
            same((status, headers["Content-Encoding"]), (200, "gzip"))
            same(gzip.decompress(body), b"a" * 100_000, "the body")
            same(len(curl("--compressed", base + "gzip")), 100_000, "what curl unpacks")

        with check(f"{name}: 204, HEAD, and the connection goes on after them"):
            connection = http.client.HTTPConnection("127.0.0.1", valetd.port, timeout=30)
            for method, path, status, length in (
                ("GET", "nothing", 204, None), ("HEAD", f"big?length={BIG}", 200, str(BIG)),
                ("HEAD", "hello", 200, "6"), ("GET", "hello", 200, "6"),
            ):
                connection.request(method, f"/{name}/{path}")
                answer = connection.getresponse()
                same((answer.status, answer.headers["Content-Length"]), (status, length), f"{method} {path}")
                same(answer.read(), b"hello\n" if (method, path) == ("GET", "hello") else b"", "the body")
            connection.close()

        with check(f"{name}: its own redirects come home, foreign ones stay foreign"):
            status, headers, _ = ask(base + "moved")
            same((status, headers["Location"]), (302, base + "hello?moved=1"))
            same(curl("-L", base + "moved"), "hello\n", "where curl ends")
            same(ask(base + "elsewhere")[1]["Location"], "http://elsewhere.example/hello")

        if name != "node":
            with check(f"{name}: ranges"):
                head = curl("-r", "1048570-1048590", "-D", "-", "-o", place / "range", base + f"big?length={BIG}")
                assert " 206 " in head and f"bytes 1048570-1048590/{BIG}" in head, head
                same((place / "range").read_bytes(), (BLOCK * 2)[1048570:1048591], "the range")

        with check(f"{name}: {BIG // 10**6} MB down"):
            before = memory()
            curl("-o", place / "down", base + f"big?length={BIG}")
            with open(place / "down", "rb") as file:
                same(hashlib.file_digest(file, "sha256").hexdigest(), expected, "the hash")
            assert memory() - before < MEMORY, f"memory grew by {memory() - before} kB"

        if name == "nginx":
            with check("nginx: 20 requests, each after nginx has closed the idle connection"):
                for _ in range(4):
                    time.sleep(1.2)  # nginx's own keepalive_timeout: there is no condition to wait for
                    for _ in range(5):
                        same(ask(base + "hello")[0], 200, "the answer")
            continue

        with check(f"{name}: {BIG // 10**6} MB up, with Expect: 100-continue"):
            before = memory()
            words = run([need("curl"), "-sSv", "-H", "Expect: 100-continue", "--expect100-timeout", "20",
                         "-T", place / "down", base + "upload"])
            same(words.stdout, expected, "the hash")
            assert "HTTP/1.1 100 Continue" in words.stderr, words.stderr[-500:]
            assert memory() - before < MEMORY, f"memory grew by {memory() - before} kB"

        with check(f"{name}: a chunked upload"):
            command = [need("curl"), "-sS", "-H", "Transfer-Encoding: chunked", "-T", "-", base + "upload"]
            with open(place / "down", "rb") as file:
                words = run(command, stdin=file)
            same(words.stdout, expected, "the hash")

        with check(f"{name}: server-sent events arrive one by one"):
            connection = http.client.HTTPConnection("127.0.0.1", valetd.port, timeout=20)
            connection.request("GET", f"/{name}/events", headers={"Accept": "text/event-stream"})
            answer = connection.getresponse()
            same((answer.status, answer.headers["Content-Type"]), (200, "text/event-stream"))
            eventually("it is listened to", lambda: ask(url + "/tick?n=0")[2] == b"1")
            while answer.readline() != b"data: 0\n":
                pass
            for n in range(1, 20):  # the next is sent when this one is here: a buffer would stop it all
                ask(url + f"/tick?n={n}")
                while (line := answer.readline()) in (b"\n", b"data: 0\n"):
                    pass
                same(line, f"data: {n}\n".encode())
            answer.close()
            connection.close()
            eventually("the upstream learns that the client has left", lambda: ask(url + "/tick?n=x")[2] == b"0", 10)


main()
