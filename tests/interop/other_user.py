"""Another user of the same machine gets nothing: not on the TCP port, not on the control socket, not from the files.
The daemon's own user is served by all three."""

import os
import pwd
import sys

from harness import Handler, Missing, Server, StandIns, Valetd, check, must, need, run, same

USER = "valetd-interop"

# What the other user tries: a request on the port; a request on the socket; reading the files.
ATTEMPT = """
import socket, sys
kind, where = sys.argv[1:3]
try:
    if kind == "read":
        print("read", len(open(where, "rb").read()))
    else:
        if kind == "tcp":
            connection = socket.create_connection(("127.0.0.1", int(where)), 10)
        else:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(where)
        connection.settimeout(10)
        host = f"127.0.0.1:{where}" if kind == "tcp" else "valetd"
        connection.sendall(f"GET {sys.argv[3]} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        print(answer.decode("latin-1"))
except PermissionError as error:
    print("PermissionError")
except ConnectionError as error:
    print("ConnectionError")
"""


class Api(Handler):
    def do_GET(self):
        self.answer(200, b"welcome")


def main():
    if os.geteuid() != 0:
        raise Missing("only root can be somebody else; this is run without it")
    need("useradd")
    stand_ins, api = StandIns(), Server(Api)
    valetd = Valetd(stand_ins.config() + f"""
[route.api]
account = "gbdx"
upstream = "{api.url}"
""").start()
    stand_ins.sign_in(valetd)
    setpriv = need("setpriv")

    def attempt(user, *words):
        entry = pwd.getpwnam(user)
        # what the system brings: the other user may not be let into ours
        python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
        return must([setpriv, f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", python, "-c",
                     ATTEMPT, *words])

    must([need("useradd"), "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER])
    try:
        with check("another user's request on the port is refused, and never reaches the upstream"):
            for _ in range(20):
                answer = attempt(USER, "tcp", valetd.port, "/api/x")
                assert "403" in answer.split("\r\n")[0] and '"peer"' in answer, answer
            same(api.seen, [], "what the upstream saw")
        with check("another user cannot connect to the control socket"):
            same(attempt(USER, "unix", valetd.socket, "/v1/status").strip(), "PermissionError")
        with check("another user cannot connect even where the folders are open"):
            folders = [valetd.home, valetd.home / "run", valetd.home / "run" / "valetd"]
            modes = [path.stat().st_mode & 0o777 for path in folders]
            for path in folders:
                path.chmod(0o755)
            try:
                same(attempt(USER, "unix", valetd.socket, "/v1/status").strip(), "PermissionError")
                valetd.socket.chmod(0o666)
                answer = attempt(USER, "unix", valetd.socket, "/v1/status")
                assert "accounts" not in answer, answer
            finally:
                valetd.socket.chmod(0o600)
                for path, mode in zip(folders, modes):
                    path.chmod(mode)
        with check("another user cannot read what is kept"):
            kept = [path for path in (valetd.home / "state").rglob("*") if path.is_file()]
            assert kept, "nothing is kept"
            for path in kept:
                same(attempt(USER, "read", path).strip(), "PermissionError", path.name)
        with check("the twin: the daemon's own user is served by both, and can read"):
            me = pwd.getpwuid(os.geteuid()).pw_name
            answer = attempt(me, "tcp", valetd.port, "/api/x")
            assert answer.startswith("HTTP/1.1 200") and answer.rstrip().endswith("welcome"), answer
            assert '"accounts"' in attempt(me, "unix", valetd.socket, "/v1/status")
            assert attempt(me, "read", kept[0]).startswith("read ")
    finally:
        run(["userdel", USER])


with check("there is another user, and the topic comes to its end"):
    main()
