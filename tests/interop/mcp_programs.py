"""Programs that speak MCP, connected by `valetd connect`: what it writes is read back by each program's own code."""

import re

from harness import (HERE, TOOLS, Missing, check, environment, folder, free_port, need, need_python, of_mcp_server, run,
                     same, spawn, until_listening)

MCP_PYTHON = TOOLS / "mcp" / "bin" / "python"
PROGRAMS = TOOLS / "mcp-programs" / "node_modules" / ".bin"

# client: its program, its configuration, what may be in there, and whether `mcp list` asks the server
CLIENTS = {
    "claude-code": ("claude", ".claude.json", '{\n  "numStartups": 3\n}\n', True),
    "codex": ("codex", ".codex/config.toml", '# mine\nmodel = "x"\n', False),
    "gemini": ("gemini", ".gemini/settings.json", '{\n  // mine\n  "selectedAuthType": "none"\n}\n', False),
    "opencode": ("opencode", "config/opencode/opencode.json", '{ "$schema": "https://opencode.ai/config.json" }', True),
}


def main():
    need("node")
    need_python("mcp", python=MCP_PYTHON)
    port = free_port()
    spawn([MCP_PYTHON, HERE / "mcp_server.py", "http", port, "open"], log=folder("logs") / "server.log",
          env=environment(PYTHONDONTWRITEBYTECODE=1))
    valetd = of_mcp_server(port).start()
    until_listening(port)
    for client, (program, file, before, asks) in CLIENTS.items():
        with check(f"{client}: its own command reads back what was written" + (", and connects" if asks else "")):
            if not (PROGRAMS / program).exists():
                raise Missing(f"the program {program} is not installed")
            path = valetd.home / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(before)
            valetd.verb("connect", client, "lab", "--yes")
            with_lab = path.read_bytes()
            env = valetd.environment(CI="1", DISABLE_AUTOUPDATER="1", NO_COLOR="1")
            done = run([PROGRAMS / program, "mcp", "list"], env=env, cwd=valetd.home)
            said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
            same(done.returncode, 0, said)
            assert re.search(rf"lab.*{valetd.url('lab', 'mcp')}", said, re.DOTALL), said
            assert not asks or re.search(r"(?i)\bconnected", said), said
        with check(f"{client}: undone byte for byte"):
            if not (PROGRAMS / program).exists():
                raise Missing(f"the program {program} is not installed")
            path.write_bytes(with_lab)  # the program may have added something of its own
            valetd.verb("connect", client, "lab", "--undo", "--yes")
            same(path.read_text(), before)


with check("what the topic needs is here, and it comes to its end"):
    main()
