"""What the topics share that sign a person in: `valetd login` at a terminal of its own, the person at a headless Chromium, and
the table of which feature was seen to work at which server."""

import contextlib
import fcntl
import json
import os
import pty
import re
import subprocess
import termios
import threading

from harness import HERE, VALETD, Missing, check, environment, eventually, need, need_node, run


class Terminal:
    """`valetd login` at a terminal of its own."""

    last = None

    def __init__(self, valetd, *words, verb="login"):
        if Terminal.last:
            Terminal.last.child.kill()  # of a check that has failed: it would still hold its account
        Terminal.last = self
        master, slave = pty.openpty()

        def begin():
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.child = subprocess.Popen([VALETD, verb, *words], stdin=slave, stdout=slave, stderr=slave,
                                      preexec_fn=begin, env=valetd.environment(TERM="xterm"))
        os.close(slave)
        self.master, self.shown = master, ""
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while True:
            try:
                part = os.read(self.master, 4096)
            except OSError:
                return
            if not part:
                return
            self.shown += part.decode(errors="replace")

    def until(self, pattern):
        def found():
            match = re.search(pattern, self.shown)
            assert match or self.child.poll() is None, f"no {pattern} in {self.shown[-800:]}"
            return match

        return eventually(f"the terminal shows {pattern}", found)

    def type(self, text):
        os.write(self.master, text.encode() + b"\r")

    def end(self):
        """Its exit status, or None if it waits for ever; and what it has shown."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(20)
        status = self.child.poll()
        self.child.kill()
        self.reader.join(5)  # what it has said last may not have been read yet
        return status, self.shown


def begin(valetd, *words):
    """Begins a sign-in in a browser; the terminal, and the address that it shows."""
    terminal = Terminal(valetd, *words)
    return terminal, terminal.until(r"in a browser:\s+(http://\S+)\r\n").group(1)


def person(address, name="ada", password="x", decision="yes", code="", **more):
    """Signs in as a person does; what the browser saw at last."""
    node, chromium = need_node("puppeteer-core"), need("chromium")
    done = run([node, HERE / "sign_in_person.mjs", address, name, decision, code],
               env=environment(CHROMIUM=chromium, PASSWORD=password, **more))
    assert done.returncode == 0, done.stderr[-800:]
    return json.loads(done.stdout)


@contextlib.contextmanager
def feature(server, what, claim):
    """A claim that is a cell of the table that `run` shows at its end, too."""
    with check(f"{server}: {claim}"):
        try:
            yield
        except Missing:
            print(f"seen: {server}: {what}: skipped", flush=True)
            raise
        except Exception:
            print(f"seen: {server}: {what}: FAIL", flush=True)
            raise
        print(f"seen: {server}: {what}: yes", flush=True)


def absent(server, *features):
    """What a server does not have: said in the table, and not tried."""
    for what in features:
        print(f"seen: {server}: {what}: -", flush=True)


def walk(valetd, server, name="lab", who="ada", password="correct horse", shown=None, **more):
    """A whole sign-in at the account `name` in a browser, a renewal, and a sign-out."""
    shown, text = shown or who, ""
    with feature(server, "code, PKCE S256", f"{name}: a real browser signs in through the server's own pages"):
        terminal, address = begin(valetd, name, "--no-browser")
        page = person(address, who, password, **more)
        status, text = terminal.end()
        assert status == 0 and f"{name}: signed in" in text, (page, text)
        assert page["title"] == "Signed in – valetd" and not page["errors"], page
    with feature(server, "who signed in", f"{name}: it is known who signed in"):
        assert re.search(f"{name}: signed in as {shown}", text), text
    with feature(server, "rotation", f"{name}: the refresh token that came is renewed"):
        valetd.until(name, lambda account: account["usable"])
        before = valetd.account(name)["credential"]["generation"]
        valetd.verb("refresh", name)
        assert valetd.account(name)["credential"]["generation"] > before


def walk_device(valetd, server, name="lab", who="ada", password="correct horse", **more):
    """A device code, entered in a browser."""
    with feature(server, "device code", f"{name}: a code is entered on another device, and waited for"):
        terminal = Terminal(valetd, name, "--device", "--no-browser", "--no-qr")
        match = terminal.until(r"Open\s+(http://\S+)\s+and enter the code\s+(\S+)\s")
        page = person(match.group(1), who, password, code=match.group(2), **more)
        status, text = terminal.end()
        assert status == 0 and f"{name}: signed in" in text, (page, text)


def sign_out(valetd, server, name="lab"):
    """The server is told."""
    with feature(server, "revocation", f"{name}: logout revokes at the server"):
        assert "revoked at the server" in valetd.verb("logout", name)
