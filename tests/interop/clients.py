"""Any HTTP tool, through the daemon, over ten renewals of short tokens: with no credentials and with wrong ones of its
own. No request fails, and no upstream ever sees a request without a good token."""

import hashlib
import json
import os
import subprocess
import threading
import time

from harness import (Missing, Server, StandIns, Valetd, check, folder, free_port, must, need, need_node, need_python, run,
                     same, spawn)
from sites import WHEEL, Git, Index, bare_repository, wheel

RENEWALS = 10
LIFETIME = 3  # seconds; renewed after two thirds of it


# Each prints "N requests" at the end, or the first answer that was not 200. They run until their standard input ends.
REQUESTS = """
import sys, requests, {common}
session, count = requests.Session(), 0
while not over():
    for auth in (None, ("somebody", "wrong")):
        for url in urls:
            answer = session.get(url, auth=auth)
            if answer.status_code != 200: sys.exit(f"{{url}}: {{answer.status_code}} {{answer.text}}")
            count += 1
print(count, "requests")
"""
HTTPX = """
import sys, httpx, {common}
count = 0
with httpx.Client() as client:
    while not over():
        for headers in ({{}}, {{"Authorization": "Bearer wrong"}}):
            for url in urls:
                answer = client.get(url, headers=headers)
                if answer.status_code != 200: sys.exit(f"{{url}}: {{answer.status_code}} {{answer.text}}")
                count += 1
print(count, "requests")
"""
AIOHTTP = """
import asyncio, sys, aiohttp, {common}
async def main():
    count = 0
    async with aiohttp.ClientSession() as session:
        async def one(url, headers):
            async with session.get(url, headers=headers) as answer:
                if answer.status != 200: sys.exit(f"{{url}}: {{answer.status}} {{await answer.text()}}")
                await answer.read()
        while not over():
            wrong = {{"Authorization": "Basic d3Jvbmc6d3Jvbmc="}}
            await asyncio.gather(*(one(url, headers) for url in urls for headers in ({{}}, wrong)))
            count += 2 * len(urls)
            await asyncio.sleep(0.05)
    print(count, "requests")
asyncio.run(main())
"""
NODE = """
let over = false, count = 0;
process.stdin.on('end', () => { over = true }).resume();
const urls = process.argv.slice(2);
while (!over) {
  for (const headers of [{}, {authorization: 'Bearer wrong'}]) for (const url of urls) {
    const answer = await fetch(url, {headers});
    const text = await answer.text();
    if (answer.status !== 200) { console.log(`${url}: ${answer.status} ${text}`); process.exit(1) }
    count++;
  }
  await new Promise(done => setTimeout(done, 20));
}
console.log(count, 'requests');
"""
# imported by the Python ones: when to stop, and a pause so that the machine is not kept busy
COMMON = """
import select, sys, time
urls = sys.argv[1:]
def over():
    time.sleep(0.02)
    return bool(select.select([sys.stdin], [], [], 0)[0])
"""


class Repeated(threading.Thread):
    """A short-lived client, run again and again until told to stop."""

    def __init__(self, once):
        super().__init__(daemon=True)
        self.once, self.over, self.count, self.error = once, threading.Event(), 0, None

    def run(self):
        try:
            while not self.over.wait(0.1):
                self.once()
                self.count += 1
        except Exception as error:
            self.error = error

    def end(self):
        self.over.set()
        self.join(60)
        assert not self.is_alive(), "it hangs"
        if self.error:
            raise self.error
        assert self.count >= 2, f"it ran only {self.count} times"


class LongLived:
    """A client that stays, and keeps its connections."""

    def __init__(self, argv):
        self.child = spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self):
        text, _ = self.child.communicate(timeout=60)
        assert self.child.returncode == 0, text[-600:]
        assert int(text.split()[-2]) >= 20, f"only {text}"


def main():
    stand_ins = StandIns(lifetime=LIFETIME)
    sources = folder("programs")
    (sources / "common.py").write_text(COMMON)
    git, index = Server(Git), Server(Index)
    index.wheel = wheel()
    index.digest = hashlib.sha256(index.wheel).hexdigest()
    git.folder = folder("git")
    v6_port = free_port()
    valetd = Valetd(stand_ins.config() + f"""
[route.git]
account = "gbdx"
upstream = "{git.url}"

[route.packages]
account = "gbdx"
upstream = "{index.url}"
""", listen=["unix:HOME/run/http.sock", f"[::1]:{v6_port}"]).start()
    with check("both accounts sign in, with a code and with a password"):
        stand_ins.sign_in(valetd)
    urls = [valetd.url("gdh", "datasets"), valetd.url("gbdx", "auth/v1/validate_token")]
    by_name = [f"http://gdh.localhost:{valetd.port}/datasets",
               f"http://gbdx.localhost:{valetd.port}/auth/v1/validate_token"]

    def program(name, text, ending="py"):
        path = sources / f"{name}.{ending}"
        path.write_text(text if ending == "mjs" else text.format(common="common").replace(
            ", common", "\nfrom common import over, urls"))
        return path

    def curl():
        need("curl")
        bearer = ["-H", "Authorization: Bearer wrong"]
        for extra in ([], ["-u", "somebody:wrong"], bearer, ["--oauth2-bearer", "wrong"]):
            must(["curl", "-sS", "--fail-with-body", *extra, *urls, *by_name])

    def wget():
        need("wget")
        for extra in ([], ["--user=somebody", "--password=wrong", "--auth-no-challenge"]):
            must(["wget", "-q", "-O", "-", "--tries=1", *extra, *urls])

    def git_clone_and_push():
        need("git")
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "http.postBuffer=65536"]
        for name, base, extra in (
            ("plain", valetd.base, []),
            ("wrong", valetd.base.replace("//", "//somebody:wrong@"), ["-c", "http.extraHeader=X-Own: 1"]),
        ):
            copy = folder("clones") / f"{name}-{time.monotonic_ns()}"
            must(["git", *extra, "clone", "-q", f"{base}/git/sample.git", copy])
            # more than the post buffer, so that it goes out chunked
            (copy / "noise").write_bytes(os.urandom(300_000))
            must(["git", "-C", copy, "add", "noise"])
            must(["git", "-C", copy, *identity, "commit", "-q", "-m", "noise"])
            must(["git", "-C", copy, *identity, *extra, "push", "-q", "origin", "HEAD:refs/heads/" + copy.name])

    def pip():
        python = need_python("pip")
        for base in (valetd.base, valetd.base.replace("//", "//somebody:wrong@")):
            target = folder("wheels") / str(time.monotonic_ns())
            must([python, "-m", "pip", "--isolated", "--no-cache-dir", "--disable-pip-version-check", "download", "-q",
                  "--no-deps", "-d", target, "-i", f"{base}/packages/simple/", "valetd-interop-sample"])
            same((target / WHEEL).read_bytes(), index.wheel, "the package")

    def long_lived(name, text):
        python = need_python(name)
        return LongLived([python, program(name + "_client", text), *urls])

    def node():
        return LongLived([need_node(), program("fetch_client", NODE, "mjs"), *urls])

    def repeated(once):
        once()  # what is missing shows now
        thread = Repeated(once)
        thread.start()
        return thread

    with check("a git repository to serve"):
        bare_repository(git.folder / "sample.git")

    clients = {
        "curl": lambda: repeated(curl),
        "wget": lambda: repeated(wget),
        "requests": lambda: long_lived("requests", REQUESTS),
        "httpx": lambda: long_lived("httpx", HTTPX),
        "aiohttp": lambda: long_lived("aiohttp", AIOHTTP),
        "Node's fetch": node,
        "git clone and push": lambda: repeated(git_clone_and_push),
        "pip with an index URL": lambda: repeated(pip),
    }
    running = {}
    for name, start in clients.items():
        with check(f"{name} starts"):
            running[name] = start()
    before = {name: valetd.account(name)["renewals"] for name in ("gdh", "gbdx")}
    with check(f"{RENEWALS} renewals of both accounts go by"):
        if not running:
            raise Missing("there is no client")
        for name, renewals in before.items():
            valetd.until(name, lambda account: account["renewals"] >= renewals + RENEWALS, 70)
    for name, client in running.items():
        with check(f"{name} is served over {RENEWALS} renewals, with no credentials and with wrong ones"):
            client.end()
    with check("no upstream has seen a request without a good token"):
        if not running:
            raise Missing("there was no client")
        log = stand_ins.say("log")
        for provider in ("gdh", "gbdx"):
            same(log[provider]["without_good_token"], [], provider)
            same(log[provider]["most_token_calls_at_once"], 1, "token calls at once")
        for name, server in (("git", git), ("pip", index)):
            fields = [fields for _, _, fields in server.seen]
            assert all(len(one) == 1 and one[0].startswith("Bearer eyJ") for one in fields), name
    with check("no request was answered by the daemon itself, and none with 401"):
        for route in valetd.status()["routes"]:
            same((route["errors"], route["rejected"]), (0, 0), route["name"])
    with check("curl is served on a unix socket and over IPv6, too, and by the control socket"):
        for words in (["--unix-socket", valetd.home / "run" / "http.sock", "http://localhost/gdh/datasets"],
                      ["-g", f"http://[::1]:{v6_port}/gdh/datasets"],
                      ["--unix-socket", valetd.socket, "http://valetd/v1/status"]):
            json.loads(must([need("curl"), "-sS", "--fail-with-body", *words]))
    with check("the twin: asked directly, the APIs refuse"):
        for provider, path in (("gdh", "datasets"), ("gbdx", "auth/v1/validate_token")):
            done = run([need("curl"), "-s", "-o", "/dev/null", "-w", "%{http_code}",
                        f"{stand_ins.places[provider]['url']}/{path}"])
            same(done.stdout, "401", provider)
    with check("tokens that the API forgot are renewed behind the client's back, once for all"):
        issued = stand_ins.say("log")["gbdx"]["issued"]
        stand_ins.say("revoke")
        must([need("curl"), "-sS", "--fail-with-body", "-Z", *urls * 6])
        assert 1 <= stand_ins.say("log")["gbdx"]["issued"] - issued <= 2, "one, and perhaps the one that was due"


main()
