"""What the topics share: saying what was claimed and seen, starting programs that end with us, a daemon in a home of
its own, and upstreams that write down what reached them. Standard library only."""

import atexit
import base64
import contextlib
import ctypes
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# What --install brings along; see `run`.
TOOLS = ROOT / "target" / "interop"
VENV_PYTHON = TOOLS / "venv" / "bin" / "python"
# For packages that want others than those do.
SDK_PYTHON = TOOLS / "sdks" / "bin" / "python"
# For authorization servers, which want others again.
SERVERS_PYTHON = TOOLS / "servers" / "bin" / "python"
NODE_MODULES = TOOLS / "node" / "node_modules"
VALETD = Path(os.environ.get("VALETD") or ROOT / "target" / "debug" / "valetd").resolve()

# How long anything local may take on a machine that is busy with other things.
PATIENCE = 30.0


# ---- claims --------------------------------------------------------------------------------------------------------


class Missing(Exception):
    """What a check needs and this machine does not have."""


@contextlib.contextmanager
def check(claim):
    """One claim: `run` counts the lines that this prints. A failure does not end the topic."""
    began = time.monotonic()
    try:
        yield
    except Missing as missing:
        print(f"skipped: {missing}: {claim}", flush=True)
    except Exception as error:  # whatever went wrong, the claim was not seen to hold
        where = error.__traceback__
        while where.tb_next and where.tb_next.tb_frame.f_code.co_filename.startswith(str(HERE)):
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
        print(f"FAIL {claim}: {place}: {type(error).__name__}: {error}", flush=True)
        for daemon in _daemons:
            daemon.say_if_dead()
    else:
        print(f"ok   {claim} ({time.monotonic() - began:.1f} s)", flush=True)


def same(found, expected, what="it"):
    assert found == expected, f"{what} is {found!r}, not {expected!r}"


def need(program):
    """The program's path, or the check is skipped."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Missing(f"{program} is not installed")
    return path


def need_python(*modules, python=VENV_PYTHON):
    """The Python that has these packages, or the check is skipped."""
    for module in modules:
        found = python.exists() and subprocess.run(
            [python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"]
        ).returncode == 0
        if not found:
            raise Missing(f"the Python package {module} is not installed")
    return str(python)


def need_node(*packages):
    """Node, and its packages by `NODE_PATH`, or the check is skipped."""
    node = need("node")
    for package in packages:
        if not (NODE_MODULES / package).exists():
            raise Missing(f"the npm package {package} is not installed")
    return node


def eventually(what, probe, patience=PATIENCE):
    """The first true thing that `probe` returns."""
    deadline = time.monotonic() + patience
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {patience:.0f} s: {what}"
        time.sleep(0.02)


# ---- programs ------------------------------------------------------------------------------------------------------

_children = []
_daemons = []
# short below the folder of `run`: a unix socket's path has at most 107 bytes
_folder = Path(tempfile.mkdtemp(prefix="t-" if "valetd-interop-" in tempfile.gettempdir() else "valetd-interop-"))
_folder.chmod(0o711)  # another user may pass, to what is meant for them


@atexit.register
def _end():
    for child in reversed(_children):
        if child.poll() is None:
            child.kill()
        child.wait()
    for _ in range(30):  # a browser's helpers outlive it for a moment, and write
        shutil.rmtree(_folder, ignore_errors=True)
        if not _folder.exists():
            break
        time.sleep(0.1)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def _die_with_parent():
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def folder(name):
    """A folder that is thrown away at the end."""
    path = _folder / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def environment(home=None, **more):
    """Nothing of the machine's own proxies and package settings: only what a program needs to run."""
    plain = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LANG": "C.UTF-8", "HOME": str(home or folder("home"))}
    plain["NODE_PATH"] = str(NODE_MODULES)
    return plain | {name: str(value) for name, value in more.items()}


def spawn(argv, log=None, **options):
    """A program that is killed when we end, at the latest."""
    options.setdefault("env", environment())
    if log:
        options |= {"stdout": open(log, "ab"), "stderr": subprocess.STDOUT}
    child = subprocess.Popen([str(word) for word in argv], preexec_fn=_die_with_parent, **options)
    _children.append(child)
    return child


def run(argv, timeout=60, **options):
    """Runs a program to its end; its output as text is in `stdout` and `stderr`."""
    options.setdefault("env", environment())
    argv = [str(word) for word in argv]
    options.setdefault("stdin", subprocess.DEVNULL if "input" not in options else None)
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=timeout,
                          preexec_fn=_die_with_parent, **{k: v for k, v in options.items() if v is not None})


def must(argv, **options):
    """The standard output of a program that has to succeed."""
    done = run(argv, **options)
    words = " ".join(Path(str(word)).name for word in argv[:3])
    assert done.returncode == 0, f"{words} ... ended with {done.returncode}: {(done.stdout + done.stderr)[-600:]}"
    return done.stdout


def free_port(address="127.0.0.1"):
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        return listener.getsockname()[1]


def until_listening(port, child=None, address="127.0.0.1"):
    def connects():
        assert child is None or child.poll() is None, f"it ended with {child.returncode}"
        with socket.socket() as probe:
            return probe.connect_ex((address, port)) == 0

    eventually(f"port {port} takes connections", connects)


def ask(url, method="GET", body=None, headers=None, timeout=PATIENCE):
    """One request on a connection of its own; `(status, headers, body)`."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request(method, "/" + path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


# ---- the daemon ----------------------------------------------------------------------------------------------------


class Valetd:
    """The built binary in a home of its own."""

    def __init__(self, config, name="valetd", listen=(), variables=None, program=(VALETD,)):
        """`listen`: further addresses; `HOME` in them is its home. `variables`: what else its environment holds. `program`:
        what it is run by, where that is not the binary alone."""
        self.program = program
        self.listen = listen
        self.variables = variables or {}
        self.home = Path(tempfile.mkdtemp(prefix=name + "-", dir=_folder))
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.socket = self.home / "run" / "valetd" / "valetd.sock"
        self.log_file = self.home / "daemon.log"
        self.child = None
        self.stopped = True
        _daemons.append(self)
        for below in ("run", "config/valetd", "state"):
            (self.home / below).mkdir(parents=True, mode=0o700)
        (self.home / "run").chmod(0o700)
        self.configure(config)

    def configure(self, config):
        listen = [f"127.0.0.1:{self.port}", *(address.replace("HOME", str(self.home)) for address in self.listen)]
        text = f"listen = {json.dumps(listen)}\n{config}"
        path = self.home / "config" / "valetd" / "config.toml"
        path.write_text(text)
        path.chmod(0o600)

    def environment(self, **more):
        dirs = {"XDG_CONFIG_HOME": self.home / "config", "XDG_STATE_HOME": self.home / "state",
                "XDG_RUNTIME_DIR": self.home / "run"}
        return environment(self.home, **(dirs | self.variables | more))

    def start(self):
        assert VALETD.exists(), f"{VALETD} is not there"
        self.stopped = False
        self.child = spawn([*self.program, "run", "--log", "debug"], log=self.log_file, env=self.environment())
        until_listening(self.port, self.child)
        eventually("the control socket answers", self.socket.exists)
        return self

    def say_if_dead(self):
        """Nobody but `stop` should end it."""
        if self.child and not self.stopped and self.child.poll() is not None:
            tail = self.log_file.read_text(errors="replace").splitlines()[-5:]
            print(f"     the daemon has ended with {self.child.returncode}:", *tail, sep="\n     ", flush=True)

    def stop(self, how=signal.SIGTERM):
        self.stopped = True
        self.child.send_signal(how)
        self.child.wait(PATIENCE)

    def verb(self, *words, input="", **env):
        """Runs one of its verbs; standard output and error together, if it succeeds."""
        done = run([*self.program, *words], input=input, env=self.environment(**env))
        text = done.stdout + done.stderr
        assert done.returncode == 0, f"valetd {words[0]} ended with {done.returncode}: {text[-600:]}"
        return text

    def control(self, method, path):
        """`(status, body)` of the control socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.socket))
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: valetd\r\nContent-Length: 0\r\n"
                               "Connection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(connection, method=method)
            answer.begin()
            return answer.status, answer.read()

    def status(self):
        return json.loads(self.control("GET", "/v1/status")[1])

    def account(self, name):
        return next(account for account in self.status()["accounts"] if account["id"] == name)

    def until(self, name, wanted, patience=PATIENCE):
        """Waits until an account is as wanted."""
        try:
            return eventually("the account", lambda: wanted(account := self.account(name)) and account, patience)
        except AssertionError:
            raise AssertionError(f"{name} did not become as wanted: {self.account(name)}") from None

    def url(self, route, path=""):
        return f"{self.base}/{route}/{path}"


def of_mcp_server(port):
    """One with a route `lab` to the MCP server at this port, and a token that is there from the start."""
    key = folder("keys") / "key"
    key.write_text("a-key-of-some-length\n")
    key.chmod(0o600)
    return Valetd(f"""
[account.lab]
grant = "static"
token = {{ file = "{key}" }}
upstream = "http://127.0.0.1:{port}"
[route.lab]
mcp = "/mcp"
""")


# ---- upstreams -----------------------------------------------------------------------------------------------------


class StandIns:
    """The project's own stand-ins of both providers: the program of examples/stand_ins.rs."""

    def __init__(self, lifetime=3600, rotation="off"):
        program = next((path for path in (VALETD.parent / "examples" / "stand_ins",
                                          ROOT / "target" / "debug" / "examples" / "stand_ins") if path.exists()), None)
        assert program, "the example stand_ins is not built: cargo build --example stand_ins"
        self.child = spawn([program, "--lifetime", lifetime, "--rotation", rotation], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, text=True)
        self.places = json.loads(self.child.stdout.readline())

    def say(self, command):
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def config(self):
        """Both accounts, by their presets, but here."""
        gdh, gbdx = self.places["gdh"], self.places["gbdx"]
        return f"""
[account.gdh]
provider = "gdh"
upstream = "{gdh['url']}"
token_endpoint = "{gdh['token_endpoint']}"
cognito_endpoint = "{gdh['cognito_endpoint']}"
revocation_endpoint = "{gdh['revocation_endpoint']}"

[account.gbdx]
provider = "gbdx"
upstream = "{gbdx['url']}"
token_endpoint = "{gbdx['token_endpoint']}"
"""

    def sign_in(self, valetd):
        """Signs both accounts in, as a person would who has a code and a password."""
        valetd.verb("login", "gdh", "--code", self.say("sign-in")["code"])
        valetd.verb("login", "gbdx", "--username", self.places["username"], "--password-stdin",
                    input=self.places["password"])


class Handler(http.server.BaseHTTPRequestHandler):
    """Keep-alive, silent, and noting every request in the server's `seen`."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def parse_request(self):
        parsed = super().parse_request()
        if parsed:
            self.server.seen.append((self.command, self.path, self.headers.get_all("Authorization") or []))
        return parsed

    def body(self):
        """The request's body, in pieces, whichever way it is framed."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.rfile.read(min(left, 1 << 16))
            assert piece, "the body ended early"
            left -= len(piece)
            yield piece

    def answer(self, status, body=b"", kind="text/plain", **fields):
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    """A Python upstream on loopback; a handler's methods see it as `self.server`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler, address="127.0.0.1", port=0):
        super().__init__((address, port), handler)
        self.seen = []
        self.port = self.server_address[1]
        self.url = f"http://{address}:{self.port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle_error(self, request, client_address):
        # a client that left is no news; anything else is a fault of the test
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def end(self):
        self.shutdown()
        self.server_close()


def bearer_is_good(authorization):
    """Whether this is one Bearer token that a stand-in issued and that has not expired: what an API checks offline. The
    claim is cut to whole seconds."""
    if len(authorization) != 1 or not authorization[0].startswith("Bearer eyJ"):
        return False
    claims = authorization[0].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    return claims["token_use"] == "access" and time.time() < claims["exp"] + 1
