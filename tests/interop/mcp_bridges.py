"""`valetd mcp` beside the widely used stdio bridge (npm mcp-remote), between the SDK's own client and its own example server:
processes, memory, start, calls. No topic of `run`: numbers for benches/README.md.   python3 tests/interop/mcp_bridges.py
"""

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

from harness import (HERE, NODE_MODULES, VALETD, environment, folder, free_port, must, need, need_node, of_mcp_server,
                     spawn, until_listening)

EXAMPLE = NODE_MODULES / "@modelcontextprotocol" / "sdk" / "dist" / "esm" / "examples" / "server" / "simpleStreamableHttp.js"
ROUNDS, CALLS = 5, 500


def tree(pid):
    """The processes below one."""
    below = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return below + [grandchild for child in below for grandchild in tree(child)]


def kib(pid, name):
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(f"{name}:"))


def measure(command, env):
    """Of one client with one bridge: processes, RSS and PSS while idle, ms to the session."""
    argv = [need("node"), HERE / "mcp_client.mjs", "lines", "stdio", *command]
    client = spawn(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    ready = json.loads(client.stdout.readline())["ready"]
    for at in range(20):
        client.stdin.write(f"{at}\n")
        client.stdin.flush()
        assert "Hello" in client.stdout.readline()
    time.sleep(2)
    bridge = tree(client.pid)
    found = len(bridge), sum(kib(pid, "Rss") for pid in bridge) / 1024, sum(kib(pid, "Pss") for pid in bridge) / 1024, ready
    client.stdin.close()
    client.wait(30)
    return found


def main():
    need_node("mcp-remote")
    port = free_port()
    spawn([need("node"), "--import", HERE / "mcp_loopback.mjs", EXAMPLE], log=folder("logs") / "server.log",
          env=environment(MCP_PORT=port))
    until_listening(port)
    valetd = of_mcp_server(port).start()
    valetd.until("lab", lambda account: account["usable"])
    remote = NODE_MODULES / "mcp-remote" / "dist" / "proxy.js"
    env = valetd.environment()
    bridges = {"mcp-remote": [need("node"), remote, f"http://127.0.0.1:{port}/mcp", "--allow-http"],
               "valetd mcp": [VALETD, "mcp", "lab"]}
    print(f"{'bridge':12} processes  RSS MiB  PSS MiB  start ms  ms a call   (load {os.getloadavg()[0]:.2f})")
    for name, command in bridges.items():
        rounds = [measure(command, env) for _ in range(ROUNDS)]
        argv = [need("node"), HERE / "mcp_client.mjs", CALLS, "stdio", *command]
        each = json.loads(must(argv, env=env, timeout=300))["each"]
        processes, rss, pss, ready = (statistics.median(column) for column in zip(*rounds))
        print(f"{name:12} {processes:9}  {rss:7.1f}  {pss:7.1f}  {ready:8.0f}  {each:9.2f}", flush=True)
    argv = [need("node"), HERE / "mcp_client.mjs", CALLS, "http", f"http://127.0.0.1:{port}/mcp"]
    print(f"no bridge: {json.loads(must(argv, env=env, timeout=300))['each']:.2f} ms a call")
    print(f"the daemon, once for all: {kib(valetd.child.pid, 'Rss') / 1024:.1f} MiB RSS")


main()
