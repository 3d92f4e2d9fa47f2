"""A server of the Python SDK: `mcp_server.py http|sse PORT open|guarded`. A guarded one takes good tokens of the stand-ins alone."""

import sys
import time

from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from harness import bearer_is_good


class Verifier:
    async def verify_token(self, token):
        if not bearer_is_good([f"Bearer {token}"]):
            return None
        return AccessToken(token=token, client_id="interop", scopes=[], expires_at=int(time.time()) + 60)


how, port, guarded = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "guarded"
here = f"http://127.0.0.1:{port}"
auth = {"token_verifier": Verifier(), "auth": AuthSettings(issuer_url=here, resource_server_url=f"{here}/mcp")} if guarded else {}
server = MCPServer("python", **auth)


@server.tool()
def greet(name: str) -> str:
    return f"Hello, {name}!"


server.run({"http": "streamable-http", "sse": "sse"}[how], host="127.0.0.1", port=port)
