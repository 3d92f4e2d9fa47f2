"""A route's rules and a narrow key before servers that take another method from a field or the query: Express with npm
method-override, and a WSGI server (which knows `_` and `-` as one) with the middleware that everybody writes."""

import sys

from harness import StandIns, Valetd, ask, check, need_node, same, spawn

EXPRESS = """
const express = require('express'), override = require('method-override');
const app = express();
for (const field of ['X-HTTP-Method-Override', 'X-HTTP-Method', 'X-Method-Override']) app.use(override(field));
app.use(override('_method', { methods: ['GET', 'POST'] }));
app.all('/admin/*rest', (request, answer) => answer.send('ADMIN'));
app.use((request, answer) => answer.send(request.method));
const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));
"""

WSGI = """
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server
class Silent(WSGIRequestHandler):
    def log_message(self, *_):
        pass
def app(environ, start):
    query = parse_qs(environ["QUERY_STRING"])
    told = environ.get("HTTP_X_HTTP_METHOD_OVERRIDE") or query.get("_method", [None])[0]
    path = environ.get("HTTP_X_ORIGINAL_URL") or environ["PATH_INFO"]
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"ADMIN" if path.lower().startswith("/admin/") else (told or environ["REQUEST_METHOD"]).encode()]
server = make_server("127.0.0.1", 0, app, handler_class=Silent)
print(server.server_port, flush=True)
server.serve_forever()
"""

FIELDS = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_HTTP_Method_Override",
          "x-http_method-override"]
QUERIES = ["_method=DELETE", "%5Fmethod=DELETE", "a=b&_method=DELETE", "_method%3DDELETE", "_method[]=DELETE"]
PATHS = ["/admin/x", "/Admin/x", "/ADMIN/x", "/%61dmin/x", "/%41DMIN/x", "//admin/x", "/admin//x"]


def story(argv, **options):
    server = spawn(argv, stdout=-1, text=True, **options)
    port = int(server.stdout.readline())
    stand_ins = StandIns()
    lab = f'\n[route.lab]\naccount = "gdh"\nupstream = "http://127.0.0.1:{port}"\n'
    open_route = f'\n[route.open]\naccount = "gdh"\nupstream = "http://127.0.0.1:{port}"\n'
    rules = 'deny = ["DELETE /**", "/admin/**"]\n'
    valetd = Valetd(stand_ins.config() + lab + rules + open_route).start()
    stand_ins.sign_in(valetd)
    valetd.until("gdh", lambda account: account["state"] == "usable")
    key = valetd.verb("key", "add", "reader", "--route", "open", "--method", "GET").split("vk_")[1].split()[0]
    keyed = {"X-Valetd-Key": "vk_" + key}

    def said(route, path, method="POST", headers=None):
        status, _, body = ask(valetd.url(route, path.removeprefix("/")), method, headers=headers or {})
        return status, body if status == 200 else b""

    same(said("open", "/x?_method=DELETE"), (200, b"DELETE"), "the server obeys, without rules")
    same(said("lab", "/x"), (200, b"POST"), "an ordinary request")
    for field in FIELDS:
        same(said("lab", "/x", headers={field: "DELETE"})[0], 403, field)
        same(said("open", "/x", "GET", {field: "DELETE"} | keyed)[0], 403, f"{field} with a key")
    for query in QUERIES:
        same(said("lab", f"/x?{query}")[0], 403, query)
        same(said("open", f"/x?{query}", "GET", keyed)[0], 403, f"{query} with a key")
    for path in PATHS:
        same(said("lab", path)[0], 403, path)
    same(said("lab", "/x", headers={"X-Original-URL": "/admin/x"})[0], 403, "X-Original-URL")


with check("what Express with method-override is told reaches it through no rule and no narrow key"):
    node = need_node("express", "method-override")
    story([node, "-e", EXPRESS])

with check("what a WSGI server is told reaches it through no rule and no narrow key"):
    story([sys.executable, "-c", WSGI])
