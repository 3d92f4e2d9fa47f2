"""What the topics about sealed credentials share: a server that takes each refresh token once, and homes that are signed
in at it."""

import json
import secrets
import urllib.parse

from harness import Handler, Server, Valetd, eventually, run


class TokenEndpoint(Handler):
    """Takes each refresh token once, and gives the next one."""

    def do_POST(self):
        form = urllib.parse.parse_qs(b"".join(self.body()).decode())
        if form.get("refresh_token") != [self.server.newest]:
            self.server.refused += 1
            return self.answer(400, b'{"error":"invalid_grant"}', "application/json")
        self.server.given.append(secrets.token_hex(16))
        self.server.newest = self.server.given[-1]
        found = {"access_token": secrets.token_hex(16), "token_type": "Bearer", "expires_in": 3600,
                 "refresh_token": self.server.newest}
        return self.answer(200, json.dumps(found).encode(), "application/json")


def token_server():
    server = Server(TokenEndpoint)
    server.newest, server.refused = secrets.token_hex(16), 0
    server.given = [server.newest]
    return server


def home(server, seal, more="", **options):
    """A home with an account of the server's. `more`: what else is configured."""
    return Valetd(f"""
store.seal = "{seal}"
{more}
[account.lab]
token_endpoint = "{server.url}/token"
client_id = "c"
header = "Authorization: Bearer {{access_token}}"
upstream = "{server.url}"
[route.lab]
account = "lab"
upstream = "{server.url}"
""", **options)


def sign_in(valetd, server):
    valetd.verb("login", "lab", "--refresh-token-stdin", "--untried", input=server.newest)
    assert server.newest in kept(valetd), "it lies in the clear at first"


def kept(valetd):
    return "".join(path.read_text(errors="replace") for path in (valetd.home / "state").rglob("*") if path.is_file())


def is_usable(valetd):
    valetd.until("lab", lambda account: account["usable"])


def renew(valetd, server):
    before = len(server.given)
    valetd.verb("refresh", "lab")
    eventually("it is renewed", lambda: len(server.given) > before)


def seal_status(valetd):
    return json.loads(valetd.verb("seal", "--json"))


def said_by(valetd, *words):
    """What a verb says that need not succeed."""
    done = run([*valetd.program, *words], env=valetd.environment())
    return done.stdout + done.stderr
