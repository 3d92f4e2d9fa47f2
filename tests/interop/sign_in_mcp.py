"""The MCP project's own example server with OAuth (npm @modelcontextprotocol/sdk): from a bare address to a session. `valetd add`
finds out by a 401 who its authorization server is, the client registers itself, a browser signs in, and a plain HTTP client
calls the server through the route. The example agrees for its person, and gives no refresh token: that is told."""

import json

from harness import HERE, NODE_MODULES, Valetd, check, environment, free_port, need, need_node, spawn, until_listening
from signing_in import absent, begin, feature, person

SERVER = "MCP SDK"
EXAMPLE = "@modelcontextprotocol/sdk/dist/esm/examples/server/simpleStreamableHttp.js"


def main():
    node = need_node("@modelcontextprotocol/sdk", "puppeteer-core")
    need("chromium")
    port, auth_port = free_port(), free_port()
    child = spawn([node, "--import", HERE / "loopback.mjs", NODE_MODULES / EXAMPLE, "--oauth", "--oauth-strict"],
                  env=environment(MCP_PORT=port, MCP_AUTH_PORT=auth_port), log="/dev/null")
    until_listening(port, child)
    until_listening(auth_port, child)
    valetd = Valetd("").start()
    with feature(SERVER, "discovery by a 401", "an account is made of nothing but the server's address"):
        said = valetd.verb("add", "tools", f"http://localhost:{port}/mcp", "--no-input")
        assert f"localhost:{auth_port}" in said, said
    with feature(SERVER, "registration", "a client registers itself, and a real browser comes back with a code"):
        terminal, address = begin(valetd, "tools", "--no-browser")
        assert "resource=" in address and "code_challenge_method=S256" in address, address
        page = person(address)
    with feature(SERVER, "no refresh token", "that there is none is told with what can be done, and nothing is kept"):
        status, shown = terminal.end()
        assert status == 1 and "sent no refresh token" in shown, (page, shown)
        assert page["title"] == "Not signed in – valetd", page
        assert not (valetd.home / "state" / "valetd" / "tools.json").exists()
    absent(SERVER, "device code", "pushed request", "rotation", "revocation", "who signed in")


with check("the MCP SDK and Chromium are here, and the topic comes to its end"):
    main()
