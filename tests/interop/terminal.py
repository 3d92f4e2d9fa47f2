"""`valetd login` at a terminal of its own, for topics in which a person signs in."""

import fcntl
import os
import pty
import re
import subprocess
import termios
import threading

from harness import VALETD, eventually


class Terminal:
    """`valetd login` at a terminal of its own."""

    last = None

    def __init__(self, valetd, *words):
        if Terminal.last:
            Terminal.last.child.kill()  # of a check that has failed: it would still hold its account
        Terminal.last = self
        master, slave = pty.openpty()

        def begin():
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.child = subprocess.Popen([VALETD, "login", *words], stdin=slave, stdout=slave, stderr=slave,
                                      preexec_fn=begin, env=valetd.environment(TERM="xterm"))
        os.close(slave)
        self.master, self.shown = master, ""
        threading.Thread(target=self.read, daemon=True).start()

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
        return eventually(f"the terminal shows {pattern}", lambda: re.search(pattern, self.shown))

    def type(self, text):
        os.write(self.master, text.encode() + b"\r")

    def end(self):
        try:
            status = self.child.wait(30)
        finally:
            self.child.kill()
        return status, self.shown
