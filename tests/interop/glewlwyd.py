"""glewlwyd, an authorization server in C from Debian: rotation at every use, `token_type` in lower case, and refusals
that are a 400 without a word, which is no verdict."""

import base64
import json
import signal
import urllib.parse

from glewlwyd_server import serve
from harness import VALETD, Handler, Server, Valetd, ask, check, eventually, folder, free_port, need, run, same

LIFETIME = 8  # cut to whole seconds by the server, so up to one less
ROTATIONS = 3
BASIC = {"Authorization": "Basic " + base64.b64encode(b"valetd:s3cret").decode()}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def start(place, port):
    """A server with one client and one person, set up by its own API."""
    url = f"http://127.0.0.1:{port}"
    child, make = serve(place, port, f"{url}/", 'log_mode="console"\nlog_level="INFO"')
    make("mod/plugin/", {"module": "oidc", "name": "oidc", "display_name": "oidc", "order_rank": 0, "parameters": {
        "iss": url, "jwt-type": "sha", "jwt-key-size": "256", "key": "of no value, but long enough for it",
        "access-token-duration": LIFETIME, "refresh-token-duration": 3600, "code-duration": 600,
        "refresh-token-rolling": True, "refresh-token-one-use": "always", "allow-non-oidc": True,
        "auth-type-code-enabled": True, "auth-type-code-revoke-replayed": True, "auth-type-token-enabled": False,
        "auth-type-id-token-enabled": True, "auth-type-none-enabled": False, "auth-type-password-enabled": True,
        "auth-type-client-enabled": True, "auth-type-device-enabled": False, "auth-type-refresh-enabled": True,
        "scope": [], "additional-parameters": [], "claims": [], "service-documentation": "", "op-policy-uri": "",
        "op-tos-uri": "", "subject-type": "public", "jwks-show": False, "introspection-revocation-allowed": True,
        "introspection-revocation-allow-target-client": True, "introspection-revocation-auth-scope": [],
        "pkce-allowed": False}})
    make("client/", {"client_id": "valetd", "name": "valetd", "enabled": True, "confidential": True,
                    "client_secret": "s3cret", "redirect_uri": ["http://127.0.0.1/back"], "scope": ["read"],
                    "authorization_type": ["code", "password", "refresh_token", "client_credentials", "delete_token"],
                    "token_endpoint_auth_method": ["client_secret_basic", "client_secret_post"]})
    make("scope/", {"name": "read", "display_name": "read", "password_required": True, "password_max_age": 0,
                   "scheme": {}})
    make("user/", {"username": "ada", "name": "Ada", "email": "ada@example.org", "password": "correct horse",
                  "enabled": True, "scope": ["read"]})
    return url + "/api/oidc"


class Api(Handler):
    """Asks the server about every token (RFC 7662)."""

    def do_GET(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        form = urllib.parse.urlencode({"token": token})
        active = json.loads(ask(f"{self.server.place}/introspect", "POST", form, FORM | BASIC)[2] or "{}").get("active")
        self.server.refused += not active
        self.answer(200 if active else 401, b"welcome" if active else b"")


def main():
    place = start(folder("glewlwyd"), free_port())
    api = Server(Api)
    api.place, api.refused = place, 0
    valetd = Valetd("".join(f"""
[account.{name}]
token_endpoint = "{place}/token"
revocation_endpoint = "{place}/revoke"
client_id = "valetd"
client_auth = "{client_auth}"
client_secret = "s3cret"
scopes = ["read"]
sign_in = ["password"]
grant = "{grant}"
upstream = "{api.url}"
""" for name, client_auth, grant in (("ada", "basic", "refresh_token"), ("post", "post", "refresh_token"),
                                     ("machine", "basic", "client_credentials")))).start()
    for name in ("ada", "post"):
        with check(f"{name}: a user name and a password sign in"):
            valetd.verb("login", name, "--username", "ada", "--password-stdin", input="correct horse")
            valetd.until(name, lambda account: account["usable"])
    with check("client credentials need nobody"):
        valetd.until("machine", lambda account: account["usable"])
    with check(f"{ROTATIONS} rotations go by under requests, and none fails"):
        names, bad = ("ada", "post", "machine"), []

        def asked_on():
            for name in names:
                status = ask(valetd.url(name, "x"))[0]
                if status != 200:
                    bad.append((name, status))
            return all(valetd.account(name)["renewals"] > ROTATIONS for name in names)

        eventually("the renewals", asked_on, 40)
        same((bad, api.refused), ([], 0), "bad answers and tokens")
    with check("killed and started again, it has the newest refresh token"):
        valetd.stop(signal.SIGKILL)
        valetd.start()
        for name in names:
            valetd.until(name, lambda account: account["usable"])
            same(ask(valetd.url(name, "x"))[0], 200, name)
    with check("logout revokes at the server"):
        valetd.verb("logout", "post")
        same(ask(valetd.url("post", "x"))[0], 503, "the next answer")
        same(ask(valetd.url("ada", "x"))[0], 200, "the other account's")
    with check("a spent refresh token meets an empty 400: no verdict, so nobody is sent to sign in"):
        form = urllib.parse.urlencode({"grant_type": "password", "username": "ada", "password": "correct horse",
                                       "scope": "read"})
        token = json.loads(ask(f"{place}/token", "POST", form, FORM | BASIC)[2])["refresh_token"]
        form = urllib.parse.urlencode({"grant_type": "refresh_token", "refresh_token": token})
        answers = [ask(f"{place}/token", "POST", form, FORM | BASIC) for _ in range(2)]
        same([(status, bool(body)) for status, _, body in answers], [(200, True), (400, False)], "the server's answers")
        run([VALETD, "login", "post", "--refresh-token-stdin"], input=token, env=valetd.environment())
        account = valetd.until("post", lambda account: account["last_failure"])
        same((account["last_failure"]["http_status"], account["last_failure"]["class"]), (400, "transient"))
        assert account["state"] in ("waiting", "renewing"), account
        status, headers, _ = ask(valetd.url("post", "x"))
        same((status, headers["Retry-After"] is not None), (503, True), "the answer to a request")


with check("glewlwyd is here, and the topic comes to its end"):
    need("glewlwyd")
    main()
