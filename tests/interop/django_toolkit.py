"""django-oauth-toolkit: rotation with a grace period. Answers that never arrive, because the daemon is killed while the
server holds them back, cost nothing: the old refresh token gets the same new pair again. This server also ends the old
access token the moment that it rotates; whoever is refused in between waits for the new one, and no client knows."""

import json
import signal
import subprocess
import threading

from harness import HERE, Valetd, ask, check, eventually, folder, need_python, same, spawn

KILLS = 5
ROTATIONS = 3


def start(grace):
    """A server with so many seconds of grace, what asks it, and a daemon that knows it."""
    server = spawn([need_python("oauth2_provider"), HERE / "django_server.py", folder(f"django{grace}"), grace],
                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    url = json.loads(server.stdout.readline())["url"]

    def log(path="log"):
        return json.loads(ask(f"{url}/{path}")[2])

    return log, Valetd(f"""
[account.lab]
token_endpoint = "{url}/o/token/"
revocation_endpoint = "{url}/o/revoke_token/"
client_id = "valetd"
sign_in = ["password"]
upstream = "{url}/api"
""").start()


def kill_in_the_middle(valetd, log):
    """Ends the daemon after the server has rotated and before its answer is there, and starts it again."""
    log("hold/on")
    held = log()["held"]
    valetd.control("POST", "/v1/accounts/lab/refresh")
    eventually("the server has rotated and holds its answer back", lambda: log()["held"] > held, 20)
    valetd.stop(signal.SIGKILL)
    log("hold/off")
    valetd.start()


def main():
    log, valetd = start(grace=60)
    with check("a user name and a password sign in"):
        valetd.verb("login", "lab", "--username", "ada", "--password-stdin", input="correct horse")
        same(ask(valetd.url("lab", "hello"))[0], 200, "the answer")
    with check(f"{ROTATIONS} rotations go by under requests, and none fails"):
        target = valetd.account("lab")["renewals"] + ROTATIONS
        bad = []

        def asked_on():
            status = ask(valetd.url("lab", "hello"))[0]
            if status != 200:
                bad.append(status)
            return valetd.account("lab")["renewals"] >= target

        eventually("the renewals", asked_on, 40)
        same(bad, [], "answers that were not 200")
    with check(f"{KILLS} times killed while a rotated answer is under way, it loses nothing"):
        for number in range(KILLS):
            kill_in_the_middle(valetd, log)
            valetd.until("lab", lambda account: account["usable"])
            same(ask(valetd.url("lab", "hello"))[0], 200, f"the answer after kill {number + 1}")
    with check("a request that arrives in the middle of a rotation is answered after it"):
        log("hold/on")
        before = log()
        valetd.control("POST", "/v1/accounts/lab/refresh")
        eventually("the server has rotated", lambda: log()["held"] > before["held"], 20)
        answers = []
        asking = threading.Thread(target=lambda: answers.append(ask(valetd.url("lab", "hello"))[0]))
        asking.start()
        eventually("the old token is refused", lambda: log()["refused"] > before["refused"], 20)
        same(answers, [], "the answer, before there is one")
        log("hold/off")
        asking.join(20)
        same(answers, [200], "the answer")
    with check("the token endpoint has refused nothing"):
        same([answer for answer in log()["answers"] if answer != 200], [], "refusals")
    with check("logout revokes at the server"):
        words = valetd.verb("logout", "lab")
        same(ask(valetd.url("lab", "hello"))[0], 503, f"the answer after {words!r}")
    with check("the twin: killed so with a server that has no grace, the login is lost, and called ambiguous"):
        log, strict = start(grace=0)
        strict.verb("login", "lab", "--username", "ada", "--password-stdin", input="correct horse")
        same(ask(strict.url("lab", "hello"))[0], 200, "the answer")
        kill_in_the_middle(strict, log)
        account = strict.until("lab", lambda account: account["state"] == "sign-in-required")
        same(account["why_code"], "ambiguous")
        status, _, body = ask(strict.url("lab", "hello"))
        same((status, "valetd" in body.decode() and "login lab" in body.decode()), (503, True), "the answer")
    with check("the twin: a wrong password is refused, and said so"):
        try:
            valetd.verb("login", "lab", "--username", "ada", "--password-stdin", input="wrong")
        except AssertionError as refusal:
            assert "invalid_grant" in str(refusal), refusal
        else:
            raise AssertionError("it signs in")


with check("django-oauth-toolkit is here, and the topic comes to its end"):
    need_python("oauth2_provider")
    main()
