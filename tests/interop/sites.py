"""Servers for a good token only that more than one topic asks: a git server and a Python package index."""

import io
import subprocess
import zipfile

from harness import Handler, bearer_is_good, environment, must, need


class Git(Handler):
    """A git server for a good token only: `git http-backend`, run as a CGI program (RFC 3875)."""

    def do_GET(self):
        if not bearer_is_good(self.headers.get_all("Authorization") or []):
            return self.answer(401, WWW_Authenticate='Basic realm="git"')
        body = b"".join(self.body())
        path, _, query = self.path.partition("?")
        env = environment(GIT_PROJECT_ROOT=self.server.folder, GIT_HTTP_EXPORT_ALL=1, REQUEST_METHOD=self.command,
                          PATH_INFO=path, QUERY_STRING=query, CONTENT_TYPE=self.headers.get("Content-Type", ""),
                          CONTENT_LENGTH=len(body), REMOTE_USER="ada", REMOTE_ADDR="127.0.0.1",
                          HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""),
                          GIT_PROTOCOL=self.headers.get("Git-Protocol", ""))
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=env)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        kind = fields.pop("Content-Type", "text/plain")
        self.answer(int(fields.pop("Status", "200").split()[0]), body, kind, **fields)

    do_POST = do_GET


class Index(Handler):
    """A Python package index (PEP 503) for a good token only, with one package."""

    def do_GET(self):
        if not bearer_is_good(self.headers.get_all("Authorization") or []):
            return self.answer(401, WWW_Authenticate='Basic realm="index"')
        if self.path == "/simple/valetd-interop-sample/":
            page = f'<!DOCTYPE html><a href="../../files/{WHEEL}#sha256={self.server.digest}">{WHEEL}</a>'
            return self.answer(200, page.encode(), "text/html")
        if self.path == f"/files/{WHEEL}":
            return self.answer(200, self.server.wheel, "application/octet-stream")
        self.answer(404)


WHEEL = "valetd_interop_sample-1.0-py3-none-any.whl"


def wheel():
    name = "valetd_interop_sample-1.0.dist-info"
    about = "Metadata-Version: 2.1\nName: valetd-interop-sample\nVersion: 1.0\n"
    files = {"valetd_interop_sample.py": "ANSWER = 42\n", f"{name}/METADATA": about,
             f"{name}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files[f"{name}/RECORD"] = "".join(f"{path},,\n" for path in files) + f"{name}/RECORD,,\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return packed.getvalue()


def bare_repository(path):
    """A repository with one commit, for a git server to serve."""
    need("git")
    must(["git", "init", "-q", "--bare", "-b", "main", path])
    must(["git", "-C", path, "config", "http.receivepack", "true"])
    seed = must(["git", "-C", path, "hash-object", "-t", "tree", "-w", "--stdin"], input="").strip()
    env = environment(GIT_AUTHOR_NAME="Ada", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="Ada", GIT_COMMITTER_EMAIL="a@b")
    commit = must(["git", "-C", path, "commit-tree", "-m", "first", seed], env=env).strip()
    must(["git", "-C", path, "update-ref", "refs/heads/main", commit])
