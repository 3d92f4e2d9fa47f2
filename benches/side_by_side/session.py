"""Stands for the scripts and tools that call an API: each call makes a session of its own, and some log in before it.

What to do comes as JSON on standard input; what each call took, in milliseconds, goes as JSON to standard output. The start
of the interpreter is not in it, which is the same with every proxy and without one.
"""

import json
import ssl
import sys
import time
from urllib.parse import urlencode
from urllib.request import Request, urlopen

order = json.load(sys.stdin)


def fetch(url, form=None, token=None):
    # a new session has a new context and reads the authorities anew: here a single one, where a system has some hundred
    context = ssl.create_default_context(cadata=order["authority"]) if url.startswith("https:") else None
    body = urlencode(form).encode() if form else None
    fields = {"Authorization": f"Bearer {token}"} if token else {}
    with urlopen(Request(url, body, fields), context=context) as answer:
        return answer.read()


def call():
    token = order["token"]
    if order["login"]:
        form = {"grant_type": "password", "client_id": "bench", "username": "bench", "password": "not a secret"}
        token = json.loads(fetch(order["login"], form))["access_token"]
    fetch(order["url"], token=token)


spent = []
for _ in range(order["calls"]):
    begun = time.perf_counter()
    call()
    spent.append((time.perf_counter() - begun) * 1000)
json.dump(spent, sys.stdout)
