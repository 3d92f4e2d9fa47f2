"""A short load by independent generators: every answer is good, one token is enough, nothing is left open."""

import re
import subprocess

from harness import HERE, StandIns, Valetd, check, eventually, must, need, need_node, same, spawn


def main():
    stand_ins = StandIns()
    node = spawn([need_node(), HERE / "upstream.mjs"], stdout=subprocess.PIPE, text=True)
    upstream = node.stdout.readline().strip()
    valetd = Valetd(stand_ins.config() + f'[route.node]\naccount = "gbdx"\nupstream = "{upstream}"\n').start()
    stand_ins.sign_in(valetd)
    issued = stand_ins.say("log")["gbdx"]["issued"]
    url = valetd.url("node", "hello")

    with check("wrk: 32 connections for 5 s, no error"):
        words = must([need("wrk"), "-t", "2", "-c", "32", "-d", "5s", url])
        assert "Non-2xx" not in words and "Socket errors" not in words, words
        requests = int(re.search(r"(\d+) requests in", words)[1])
        assert requests > 500, words
        print(f"     {requests / 5:.0f} requests/s, with generator, daemon and Node on the same cores")
    with check("h2load: 2000 requests over HTTP/1.1, no error"):
        words = must([need("h2load"), "--h1", "-n", "2000", "-c", "8", url])
        assert "2000 succeeded, 0 failed, 0 errored" in words, words
    with check("h2load: 2000 requests over h2c, no error"):
        words = must([need("h2load"), "-n", "2000", "-c", "4", "-m", "10", url])
        assert "2000 succeeded, 0 failed, 0 errored" in words, words
    with check("all of it with one token, and nothing is left open"):
        same(stand_ins.say("log")["gbdx"]["issued"], issued, "the number of tokens")
        eventually("no open requests", lambda: not any(route["open"] for route in valetd.status()["routes"]))
        same([route["errors"] for route in valetd.status()["routes"] if route["name"] == "node"], [0], "errors")


with check("Node is here, and the topic comes to its end"):
    main()
