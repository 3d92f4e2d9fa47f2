"""The MCP SDKs' own example servers and clients (TypeScript and Python), with valetd between them: Streamable HTTP and SSE, with
and without sign-in, at the route's URL and over the bridge."""

import json
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from harness import (HERE, NODE_MODULES, TOOLS, VALETD, StandIns, Valetd, check, environment, folder, free_port,
                     must, need, need_node, need_python, run, same, spawn, until_listening)
from signing_in import Terminal

MCP_PYTHON = TOOLS / "mcp" / "bin" / "python"
EXAMPLES = NODE_MODULES / "@modelcontextprotocol" / "sdk" / "dist" / "esm" / "examples" / "server"

# name: the SDK's example, where it speaks, and how
TYPESCRIPT = {"ts-http": ("simpleStreamableHttp.js", "/mcp", "http"), "ts-json": ("jsonResponseStreamableHttp.js", "/mcp", "http"),
              "ts-sse": ("simpleSseServer.js", "/mcp", "sse"),
              "ts-stateless": ("simpleStatelessStreamableHttp.js", "/mcp", "http")}
PYTHON = {"py-http": ("http", "/mcp"), "py-sse": ("sse", "/sse")}


def start_typescript(example, port, *arguments, **variables):
    env = {"MCP_PORT": port, "PORT": port} | variables
    return spawn([need("node"), "--import", HERE / "mcp_loopback.mjs", EXAMPLES / example, *arguments],
                 log=folder("logs") / f"{example}.log", env=environment(**env))


def start_python(how, port, guard="open"):
    return spawn([MCP_PYTHON, HERE / "mcp_server.py", how, port, guard], log=folder("logs") / f"python-{how}-{guard}.log",
                 env=environment(PYTHONDONTWRITEBYTECODE=1))


def typescript(valetd, *how, calls=1):
    return json.loads(must([need("node"), HERE / "mcp_client.mjs", calls, *how], env=valetd.environment()))


def python(valetd, *how, mode="auto"):
    return json.loads(must([MCP_PYTHON, HERE / "mcp_client.py", mode, *how], env=valetd.environment()))


def route(name, account, port, path):
    return f'[route.{name}]\naccount = "{account}"\nupstream = "http://127.0.0.1:{port}"\nmcp = "{path}"\n'


def said(found):
    assert found["text"].startswith(("Hello, caller 0!", "Started sending", "Completed sending")), found


def main():
    need_node("@modelcontextprotocol/sdk")
    with check("the MCP SDK for Python is there"):
        need_python("mcp", python=MCP_PYTHON)
    with_its_own_authorization_server()
    stand_ins = StandIns(lifetime=6, rotation="strict")
    servers = {}
    for name, (example, path, how) in TYPESCRIPT.items():
        servers[name] = (free_port(), path, how)
        start_typescript(example, servers[name][0])
    for name, (how, path) in PYTHON.items():
        for guard in ("open", "guarded") if how == "http" else ("guarded",):
            servers[f"{name}-{guard}"] = (free_port(), path, how)
            start_python(how, servers[f"{name}-{guard}"][0], guard)
    routes = "".join(route(name, "gbdx", port, path) for name, (port, path, _) in servers.items())
    valetd = Valetd(stand_ins.config() + routes).start()
    stand_ins.sign_in(valetd)
    valetd.until("gbdx", lambda account: account["usable"])

    for name, (port, path, how) in servers.items():
        until_listening(port)
        url = valetd.url(name, path[1:])
        with ThreadPoolExecutor(4) as pool:  # most of it is the interpreters' start
            found = {f"{client.__name__} client, {where}": pool.submit(client, valetd, *words)
                     for client in (typescript, python)
                     for where, words in (("route's URL", (how, url)), ("bridge", ("stdio", VALETD, "mcp", name)))}
        for claim, result in found.items():
            with check(f"{name}: {claim}: a tool is called"):
                said(result.result())
    with check("a guarded server takes nobody without a token"):
        port = servers["py-http-guarded"][0]
        done = run([MCP_PYTHON, HERE / "mcp_client.py", "auto", "http", f"http://127.0.0.1:{port}/mcp"], env=environment())
        assert done.returncode != 0, done.stdout
    with check("a server and a client of 2026-07-28 speak it, also over the bridge"):
        for how in (("http", valetd.url("py-http-guarded", "mcp")), ("stdio", VALETD, "mcp", "py-http-guarded")):
            same(python(valetd, *how)["version"], "2026-07-28", how[0])
        same(python(valetd, *how, mode="legacy")["version"] < "2026", True, "an older one, if it is asked for")
    with check("status names the servers"):
        seen = {one["name"]: one["mcp"]["server_name"] for one in valetd.status()["routes"] if one.get("mcp")}
        same(seen["py-http-open"], "python")
        same(seen["ts-http"], "simple-streamable-http-server")
    with check("rules hold for the SDKs' messages"):
        key = valetd.verb("key", "add", "narrow", "--route", "py-http-guarded", "--allow", "mcp tools/call other_*")
        key = re.search(r"vk_\S+", key)[0]
        done = run([MCP_PYTHON, HERE / "mcp_client.py", "auto", "http", f"{valetd.base}/{key}/py-http-guarded/mcp"], env=environment())
        assert "valetd refuses it" in done.stderr, done.stdout + done.stderr[-600:]


def with_its_own_authorization_server():
    """The SDK's demo gives no refresh token, so its sign-in ends in words; all before that goes by."""
    with check("added by its URL alone: discovery, registration, PKCE and code go by; what its server lacks is said"):
        port, auth_port = free_port(), free_port()
        start_typescript("simpleStreamableHttp.js", port, "--oauth", "--oauth-strict", MCP_AUTH_PORT=auth_port)
        until_listening(port)
        until_listening(auth_port)
        lone = Valetd("").start()
        lone.verb("add", "lab", f"http://localhost:{port}/mcp")
        config = lone.home / "config" / "valetd" / "config.toml"
        config.write_text(config.read_text().replace(":8254/", f":{free_port()}/"))
        lone.verb("reload")
        terminal = Terminal(lone, "lab", "--no-browser")
        url = terminal.until(r"http://\S+response_type=code\S*")[0]
        urllib.request.urlopen(url, timeout=30).read()  # a browser goes wherever it is led; the demo asks nothing
        status, shown = terminal.end()
        same(status, 1)
        assert "the authorization server sent no refresh token" in shown, shown[-500:]



with check("the MCP SDK for TypeScript is here, and the topic comes to its end"):
    main()
