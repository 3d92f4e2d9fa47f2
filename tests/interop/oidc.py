"""A certified OpenID provider (npm oidc-provider) that rotates refresh tokens and kills the login of whoever presents a
spent one: many rotations under requests, every way for a client to say who it is, revocation at logout."""

import json
import subprocess
import threading

from harness import HERE, VALETD, Valetd, ask, check, eventually, need_node, run, same, spawn

ROTATIONS = 5

# account: client id, client_auth, grant
PEOPLE = {"public": ("public", "none", "refresh_token"), "basic": ("basic", "basic", "refresh_token"),
          "post": ("post", "post", "refresh_token")}
MACHINES = {"machine-basic": ("machine:basic", "basic", "client_credentials"),
            "machine-post": ("machine-post", "post", "client_credentials")}


class Requests(threading.Thread):
    """Asks every route again and again; keeps what was not 200."""

    def __init__(self, urls):
        super().__init__(daemon=True)
        self.urls, self.over, self.count, self.bad = urls, threading.Event(), 0, []

    def run(self):
        while not self.over.wait(0.03):
            for url in self.urls:
                try:
                    status, _, body = ask(url)
                except OSError as error:
                    status, body = 0, error
                self.count += 1
                if status != 200:
                    self.bad.append((url, status, body))

    def end(self):
        self.over.set()
        self.join(30)
        same(self.bad[:3], [], f"{len(self.bad)} of {self.count} answers")
        assert self.count > 50, f"only {self.count} requests"


def main():
    server = spawn([need_node("oidc-provider"), HERE / "oidc_provider.mjs"], stdin=subprocess.PIPE,
                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def say(command):
        server.stdin.write(command + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    places = json.loads(server.stdout.readline())
    accounts = PEOPLE | MACHINES
    valetd = Valetd("".join(f"""
[account.{name}]
token_endpoint = "{places['issuer']}/token"
revocation_endpoint = "{places['issuer']}/token/revocation"
client_id = "{client_id}"
client_auth = "{client_auth}"
grant = "{grant}"
upstream = "{places['api']}"
""" + (f"client_secret = '{places['secret']}'\n" if client_auth != "none" else "")
        for name, (client_id, client_auth, grant) in accounts.items())).start()

    for name in PEOPLE:
        with check(f"{name}: a refresh token on standard input signs in"):
            token = say(f"mint {name}")
            words = valetd.verb("login", name, "--refresh-token-stdin", input=token + "\n")
            assert token not in words, "the token is printed"
            valetd.until(name, lambda account: account["usable"])
    for name in MACHINES:
        with check(f"{name}: client credentials need nobody"):
            valetd.until(name, lambda account: account["usable"])
    requests = Requests([valetd.url(name, "hello") for name in accounts])
    requests.start()
    with check(f"{ROTATIONS} renewals of every account go by"):
        for name in accounts:
            valetd.until(name, lambda account: account["renewals"] > ROTATIONS, 60)
    with check("no request fails meanwhile, and the API never sees a bad token"):
        requests.end()
        same(say("log")["without_good_token"], 0, "the number of bad tokens")
    with check("every refresh token is presented once: the server never suspects a theft"):
        log = say("log")
        same((log["errors"], log["revoked_grants"]), ([], 0), "errors and revoked logins")
        assert log["spent"] >= ROTATIONS * len(PEOPLE), log
    with check("the twin: a spent refresh token is noticed, and ends that login"):
        spent = say("mint public")
        form = f"grant_type=refresh_token&client_id=public&refresh_token={spent}"
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answers = [ask(places["issuer"] + "/token", "POST", form, kind)[0] for _ in range(2)]
        same(answers, [200, 400], "the answers")
        same(say("log")["revoked_grants"], 1, "the number of revoked logins")
    with check("stopped and started again, it goes on where it was"):
        valetd.stop()
        valetd.start()
        for name in accounts:
            valetd.until(name, lambda account: account["usable"])
            same(ask(valetd.url(name, "hello"))[0], 200, name)
        same(len(say("log")["errors"]), 1, "the number of errors")
    for name in PEOPLE:
        with check(f"{name}: logout revokes the login at the server"):
            before = say("log")["revoked_grants"]
            valetd.verb("logout", name)
            eventually("the server has revoked it", lambda: say("log")["revoked_grants"] == before + 1, 10)
            status, headers, body = ask(valetd.url(name, "hello"))
            same(status, 503, f"the next answer, {body[:80]}")
            assert json.loads(body)["type"].endswith("sign-in-required"), body
            assert headers["Proxy-Status"].startswith("valetd"), headers["Proxy-Status"]
    with check("the others are not touched by it"):
        same(ask(valetd.url("machine-post", "hello"))[0], 200, "the answer")
    with check("a refresh token that the server refuses needs a person, and is said to be revoked"):
        done = run([VALETD, "login", "public", "--refresh-token-stdin", "--untried"], input="made-up", env=valetd.environment())
        assert done.returncode != 0, "the login succeeds"
        account = valetd.until("public", lambda account: account["state"] == "sign-in-required")
        same(account["why_code"], "revoked", "why")


with check("oidc-provider is here, and the topic comes to its end"):
    need_node("oidc-provider")
    main()
