"""The Python SDK's own client: begins a session, lists the tools, calls one, and says what it saw as JSON.

    mcp_client.py auto|legacy http URL | sse URL | stdio COMMAND ARGUMENT...
"""

import asyncio
import json
import os
import sys

from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client


async def main():
    mode, how, where, *rest = sys.argv[1:]
    server = {"http": lambda: where, "sse": lambda: sse_client(where),
              "stdio": lambda: StdioServerParameters(command=where, args=rest, env=dict(os.environ))}[how]()
    async with Client(server, mode=mode) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        if "greet" in names:
            result = await client.call_tool("greet", {"name": "caller 0"})
        else:
            result = await client.call_tool("start-notification-stream", {"interval": 10, "count": 3})
        print(json.dumps({"tools": names, "text": result.content[0].text, "version": client.protocol_version}))


asyncio.run(main())
