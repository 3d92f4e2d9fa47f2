"""`valetd exec`: unmodified programs that insist on an https host of their own get the route's token there, whatever
they send themselves; hosts without a route stay what they were; and no program has a secret in its hands."""

import base64
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

from harness import (TOOLS, VALETD, VENV_PYTHON, Handler, Missing, StandIns, Valetd, bearer_is_good, check, environment,
                     folder, must, need, need_node, need_python, run, same, spawn)
from network import TRUST_VARIABLES, Network
from sites import WHEEL, Git, Index, bare_repository, wheel

HOSTS = ("api", "git", "packages", "npm", "grpc", "ws")
PUBLIC = "public.valetd.test"


def host(name):
    return f"{name}.valetd.test"


class Api(Handler):
    """Says what it was asked for, to a good token alone."""

    def do_GET(self):
        b"".join(self.body())
        if not bearer_is_good(self.headers.get_all("Authorization") or []):
            return self.answer(401, WWW_Authenticate="Bearer")
        path = self.path.partition("?")[0]
        if path.startswith("/boto"):
            return self.answer(200, BUCKETS, "application/xml")
        if path == "/listing/":
            return self.answer(200, b'<a href="a-file">a-file</a>', "text/html")
        if path.endswith(".png"):
            return self.ranges(PICTURE, "image/png")
        self.answer(200, f"served {path}\n".encode())

    def ranges(self, content, kind):
        span = self.headers.get("Range", "").removeprefix("bytes=")
        if not span:
            return self.answer(200, content, kind, Accept_Ranges="bytes")
        first, _, last = span.partition("-")
        first, last = int(first), min(int(last or len(content)), len(content) - 1)
        part = content[first:last + 1]
        self.answer(206, part, kind, Content_Range=f"bytes {first}-{last}/{len(content)}", Accept_Ranges="bytes")

    do_POST = do_PUT = do_HEAD = do_GET


class Public(Handler):
    """A host that no route leads to, which must not be given a token."""

    def do_GET(self):
        self.answer(200, f"public {self.path}\n".encode())


class Npm(Handler):
    """A registry with one package."""

    def do_GET(self):
        if not bearer_is_good(self.headers.get_all("Authorization") or []):
            return self.answer(401)
        if self.path.endswith(".tgz"):
            return self.answer(200, self.server.package, "application/octet-stream")
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(self.server.package).digest()).decode()
        dist = {"tarball": f"https://{host('npm')}/-/valetd-interop-sample.tgz", "integrity": integrity}
        version = {"name": "valetd-interop-sample", "version": "1.0.0", "dist": dist}
        packument = {"name": "valetd-interop-sample", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        self.answer(200, json.dumps(packument).encode(), "application/json")


BUCKETS = (b'<?xml version="1.0"?><ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>x'
           b"</ID></Owner><Buckets><Bucket><Name>served-boto3</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate>"
           b"</Bucket></Buckets></ListAllMyBucketsResult>")


def picture():
    """A PNG of two pixels by one."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + b"\1\2\3\4\5\6")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


PICTURE = picture()


def npm_package():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in {"package.json": json.dumps({"name": "valetd-interop-sample", "version": "1.0.0"}),
                           "index.js": "module.exports = 42\n"}.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


# Each asks for the URLs in its arguments, with a token of its own, and prints the answers.
PYTHON = {
    "urllib": "import urllib.request as u\n"
              "def get(url): return u.urlopen(u.Request(url, headers={'Authorization': 'Bearer theirs'})).read().decode()",
    "requests": "import requests\ndef get(url): return requests.get(url, auth=('somebody', 'wrong')).text",
    "httpx": "import httpx\ndef get(url): return httpx.get(url, headers={'Authorization': 'Bearer theirs'}).text",
    "aiohttp with trust_env": """
import asyncio, aiohttp
def get(url):
    async def one():
        async with aiohttp.ClientSession(trust_env=True) as session, session.get(url) as answer:
            return await answer.text()
    return asyncio.run(one())""",
    "aiohttp": """
import asyncio, aiohttp
def get(url):
    async def one():
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()
    return asyncio.run(one())""",
    "bare urllib3": "import urllib3\ndef get(url): return urllib3.PoolManager().request('GET', url).data.decode()",
    "pycurl": """
import io, pycurl
def get(url):
    to, curl = io.BytesIO(), pycurl.Curl()
    curl.setopt(curl.URL, url)
    curl.setopt(curl.WRITEDATA, to)
    curl.perform()
    return to.getvalue().decode()""",
    "boto3": """
import boto3
def get(url):
    s3 = boto3.client('s3', endpoint_url=url, region_name='x', aws_access_key_id='x', aws_secret_access_key='x')
    return s3.list_buckets()['Buckets'][0]['Name'].replace('served-', 'served /')""",
    "GDAL (rasterio)": """
import rasterio
def get(url):
    with rasterio.open('/vsicurl/' + url + '.png') as picture:
        assert (picture.width, picture.height) == (2, 1), picture
        assert picture.read(1).tolist() == [[1, 4]]
    return 'served ' + url.partition('.test')[2]""",
}
MODULES = {"aiohttp with trust_env": "aiohttp", "bare urllib3": "urllib3", "GDAL (rasterio)": "rasterio"}
NODE_FETCH = """
for (const url of process.argv.slice(2))
  console.log(await (await fetch(url, {headers: {authorization: 'Bearer theirs'}})).text());
"""
GO = """
package main
import ("io"; "net/http"; "os")
func main() {
    for _, url := range os.Args[1:] {
        answer, err := http.Get(url)
        if err != nil { panic(err) }
        io.Copy(os.Stdout, answer.Body)
    }
}
"""
JAVA = """
import java.net.*; import java.net.http.*;
public class A {
    public static void main(String[] urls) throws Exception {
        var client = HttpClient.newBuilder().proxy(ProxySelector.getDefault()).build();
        for (var url : urls) {
            var request = HttpRequest.newBuilder(URI.create(url)).header("Authorization", "Bearer theirs").build();
            System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }
}
"""
RUBY = "require 'open-uri'; ARGV.each { |url| print URI.open(url, 'Authorization' => 'Bearer theirs').read }"
GRPC_SERVER = """
import sys, grpc
from concurrent import futures
class Say(grpc.GenericRpcHandler):
    def service(self, call):
        def say(request, context):
            token = dict(context.invocation_metadata()).get("authorization", "")
            if not token.startswith("Bearer eyJ"): context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
            return b"served " + request
        return grpc.unary_unary_rpc_method_handler(say)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([Say()])
pair = (open(sys.argv[1], "rb").read(), open(sys.argv[2], "rb").read())
print(server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair])), flush=True)
server.start()
server.wait_for_termination()
"""
GRPC_CLIENT = """
import sys, grpc
channel = grpc.secure_channel(sys.argv[1] + ":443", grpc.ssl_channel_credentials())
print(channel.unary_unary("/valetd.Sample/Say")(b"grpc", timeout=20, metadata=[("authorization", "Bearer theirs")]).decode())
"""
WEBSOCKET_SERVER = """
import asyncio, http, ssl, sys
from websockets.asyncio.server import serve
def judge(connection, request):
    if not request.headers.get("Authorization", "").startswith("Bearer eyJ"):
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "who are you?")
async def echo(connection):
    async for message in connection:
        await connection.send("served " + message)
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[1])
    async with serve(echo, "127.0.0.1", 0, process_request=judge, ssl=context) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""
WEBSOCKET_CLIENT = """
import asyncio, sys
from websockets.asyncio.client import connect
async def main():
    async with connect("wss://" + sys.argv[1] + "/x", additional_headers={"Authorization": "Bearer theirs"}) as socket:
        await socket.send("websocket")
        print(await socket.recv())
asyncio.run(main())
"""


def main():
    stand_ins = StandIns()
    network = Network(*(host(name) for name in HOSTS), PUBLIC)
    api, public = network.site(host("api"), Api), network.site(PUBLIC, Public)
    git, index, npm = (network.site(host(name), handler) for name, handler in
                       (("git", Git), ("packages", Index), ("npm", Npm)))
    git.folder = folder("git")
    index.wheel = wheel()
    index.digest = hashlib.sha256(index.wheel).hexdigest()
    npm.package = npm_package()
    routes = "".join(f'[route.{name}]\naccount = "lab"\nupstream = "https://{host(name)}"\n' for name in HOSTS)
    valetd = Valetd(f"""
[account.lab]
token_endpoint = "{stand_ins.places['gbdx']['token_endpoint']}"
client_auth = "none"
extra_ca = "{network.authority}"
{routes}""", variables={"https_proxy": network.url} | {name: network.authority for name in TRUST_VARIABLES}).start()
    refresh_token = stand_ins.say("sign-in")["gbdx"]
    valetd.verb("login", "lab", "--refresh-token-stdin", input=refresh_token)
    valetd.until("lab", lambda account: account["usable"])

    def secrets():
        tokens = {field.removeprefix("Bearer ") for server in (api, git, index, npm) for _, _, seen in server.seen
                  for field in seen}
        return {refresh_token, stand_ins.places["password"]} | {token for token in tokens if token.startswith("eyJ")}

    def execute(argv, options=(), work=None, **more):
        """Runs a program under `exec`; no secret is in its environment, in what it says, or in what it writes."""
        work = work or folder("work") / f"{len(os.listdir(folder('work')))}"
        work.mkdir(exist_ok=True)
        keep = ["sh", "-c", 'env > environment; exec "$@"', "sh"]
        arguments = ["exec", "--account", "lab", "--intercept", *options, "--", *keep, *argv]
        done = run([VALETD, *arguments], cwd=work, env=valetd.environment(**more))
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"ended with {done.returncode}: {said[-900:]}"
        texts = [said.encode(), *(path.read_bytes() for path in work.rglob("*") if path.is_file())]
        assert (work / "environment").read_text().count("VALETD_KEY=vk_") == 1
        for secret in secrets():
            assert not any(secret.encode() in text for text in texts), "a secret is in the command's hands"
        return done.stdout

    def served(name, argv, options=(), passes=True, **more):
        """Whether a program is served at a route's host, and elsewhere as ever."""
        path = "/" + "".join(letter for letter in name if letter.isalnum())
        urls = [f"https://{host('api')}{path}"] + [f"https://{PUBLIC}{path}"] * passes
        before = len(api.seen)
        said = execute([*argv, *urls], options, **more)
        assert f"served {path}" in said, said[-400:]
        assert f"public {path}" in said or not passes, said[-400:]
        requests = api.seen[before:]
        assert requests and all(bearer_is_good(fields) for _, _, fields in requests), requests

    def program(name, text):
        path = folder("programs") / name
        path.write_text(text)
        return path

    def python(name):
        text = PYTHON[name] + "\nimport sys\nfor url in sys.argv[1:]: print(get(url))\n"
        return [need_python(MODULES.get(name, name)), "-c", text]

    def go():
        source, built = program("a.go", GO), folder("programs") / "static-go"
        must([need("go"), "build", "-o", built, source],
             env=environment(CGO_ENABLED=0, GO111MODULE="off", GOCACHE=folder("go-cache")), timeout=120)
        return [built]

    def java():
        return [need("java"), program("A.java", JAVA)]

    def node():
        return [need_node(), program("fetch.mjs", NODE_FETCH)]

    # name: how it is called, and whether it is asked for the host without a route, too
    by_variables = {
        "curl": (lambda: [need("curl"), "-sS", "-H", "Authorization: Bearer theirs"], True),
        "curl in HTTP/1.1": (lambda: [need("curl"), "-sS", "--http1.1", "-u", "somebody:wrong"], True),
        "urllib": (lambda: python("urllib"), True),
        "requests": (lambda: python("requests"), True),
        "httpx": (lambda: python("httpx"), True),
        "aiohttp with trust_env": (lambda: python("aiohttp with trust_env"), True),
        "boto3": (lambda: python("boto3"), False),
        "GDAL (rasterio)": (lambda: python("GDAL (rasterio)"), False),
        "a static Go program": (go, True),
        "Ruby's open-uri": (lambda: [need("ruby"), "-e", RUBY], True),
    }
    for name, (argv, passes) in by_variables.items():
        with check(f"{name} is served at the API's own host"):
            served(name, argv(), passes=passes)
    with check("Java's HttpClient is served at the API's own host (--java)"):
        served("java", java(), ["--java"], passes=False)
    for name, argv in {
        "wget": lambda: [need("wget"), "-qO-", "--header=Authorization: Bearer theirs"],
        "pycurl": lambda: python("pycurl"),
    }.items():
        with check(f"{name} is served at the API's own host (--trust-mount)"):
            walls()
            served(name, argv(), ["--trust-mount"])
    for name, argv in {
        "wget": lambda: [need("wget"), "-qO-"],
        "bare urllib3": lambda: python("bare urllib3"),
        "aiohttp": lambda: python("aiohttp"),
        "Node's fetch": node,
        "a static Go program": lambda: ["env", "-i", *go()],
    }.items():
        with check(f"{name} is served at the API's own host (--isolate)"):
            walls()
            served(name, argv(), ["--isolate", *shown_inside()], passes=False)

    with check("git clones and pushes over https, with a wrong password of its own"):
        bare_repository(git.folder / "sample.git")
        clone = """git clone -q https://somebody:wrong@$0/sample.git copy && cd copy && head -c 300000 /dev/urandom > noise &&
            git add noise && git -c user.name=Ada -c user.email=a@b commit -qm noise && git push -q origin HEAD:refs/heads/x"""
        execute(["sh", "-c", clone, host("git")])
        same(must(["git", "-C", git.folder / "sample.git", "log", "--format=%s", "x"]).split(), ["noise", "first"], "the log")
    with check("pip installs from an index for tokens alone"):
        execute([need_python("pip"), "-m", "pip", "--no-cache-dir", "--disable-pip-version-check", "download", "-q",
                 "--no-deps", "-i", f"https://somebody:wrong@{host('packages')}/simple/", "valetd-interop-sample"],
                work=(work := folder("pip")))
        same((work / WHEEL).read_bytes(), index.wheel, "the package")
    with check("npm installs from a registry for tokens alone"):
        need("npm")
        # where the machine's own npmrc has a cafile, that takes the place of what Node trusts
        has_file = must(["npm", "config", "get", "cafile"]).strip() not in ("null", "")
        (work := folder("npm")).joinpath(".npmrc").write_text(
            f"registry=https://{host('npm')}/\n//{host('npm')}/:_authToken=wrong\naudit=false\nfund=false\n" +
            "cafile=${SSL_CERT_FILE}\n" * has_file)
        execute(["npm", "install", "--silent", "--cache", "cache", "valetd-interop-sample"], work=work)
        assert (work / "node_modules" / "valetd-interop-sample" / "index.js").exists()
    with check("gh api is served, which wants a token"):
        token = {"GH_ENTERPRISE_TOKEN": "placeholder"}
        said = execute([need("gh"), "api", "--hostname", host("api"), "x"], **token)
        same(said, "served /api/v3/x\n", "the answer")
    with check("rclone lists a folder"):
        said = execute([need("rclone"), "--config", "/dev/null", "lsf", f":http,url='https://{host('api')}/listing/':"])
        same(said.split(), ["a-file"], "the list")
    for name, server, client in (("grpc", GRPC_SERVER, GRPC_CLIENT), ("ws", WEBSOCKET_SERVER, WEBSOCKET_CLIENT)):
        with check({"grpc": "gRPC (grpcio) is served", "ws": "a WebSocket (websockets) is served"}[name]):
            interpreter = need_python({"grpc": "grpc", "ws": "websockets"}[name])
            listening = spawn([interpreter, "-c", server, network.key, network.certificate], stdout=subprocess.PIPE, text=True)
            network.places[host(name)] = int(listening.stdout.readline())
            assert "served " in execute([interpreter, "-c", client, host(name)])
    with check("headless Chromium shows a page of the API, told by its own means"):
        script = """mkdir -p $HOME/.pki/nssdb && certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n valetd -i $VALETD_CA &&
            exec chromium --headless --no-sandbox --disable-gpu --proxy-server=$https_proxy --dump-dom $0"""
        need("chromium"), need("certutil")
        said = execute(["sh", "-c", script, f"https://{host('api')}/chromium"], HOME=folder("browser"))
        assert "served /chromium" in said, said
    with check("the twin: without exec, none of it is to be had"):
        done = run([need("curl"), "-sS", "--fail-with-body", f"https://{host('api')}/x"], env=valetd.environment())
        assert done.returncode == 22 and "served" not in done.stdout, done
    with check("the host without a route was never given a token"):
        assert public.seen and not any("eyJ" in field for _, _, fields in public.seen for field in fields)


def walls():
    need("bwrap")
    if run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]).returncode:
        raise Missing("bubblewrap may make no namespaces here")


def shown_inside():
    """What of the interpreters is no part of the system."""
    folders = {folder("programs"), TOOLS}
    for python in (VENV_PYTHON, Path(sys.executable)):
        if python.exists():
            prefix = must([python, "-c", "import sys; print(sys.base_prefix)"]).strip()
            folders |= set() if prefix.startswith("/usr") else {prefix}
    return [word for path in sorted(map(str, folders)) if Path(path).exists() for word in ("--ro", path)]


main()
