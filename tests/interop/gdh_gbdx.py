"""The providers' own Python clients, `geodatahub` and `gbdx-auth`: what they leave on the disk is taken over, and then
they work through the daemon with made-up tokens, over renewals."""

import base64
import json

from harness import StandIns, Valetd, check, free_port, need_python, run, same

LIFETIME = 3

# The client knows its hosts by heart. Here they are the stand-in's, so that nothing leaves the machine.
GDH_AT_HOME = """
import json, sys, requests
stand_in = {url!r}
HOSTS = ("https://api-dev.geodatahub.dk", "https://cognito-idp.eu-west-1.amazonaws.com")
for verb in ("get", "post"):
    def local(url, *rest, original=getattr(requests, verb), **named):
        for host in HOSTS:
            url = url.replace(host, stand_in)
        assert url.startswith("http://127.0.0.1:"), url
        return original(url, *rest, **named)
    setattr(requests, verb, local)
from geodatahub.auth import GeodatahubAuth
from geodatahub.connection import Connection
"""

GDH_LOGIN = GDH_AT_HOME + """
auth = GeodatahubAuth()
auth.login({code!r})
auth.store_token(location="disk")
"""

GDH_WORK = GDH_AT_HOME + """
import time
connection = Connection(token="x", backend_url={base!r})
end = time.monotonic() + {seconds}
count = 0
while time.monotonic() < end:
    assert connection.ping(), "ping"
    listed = connection.listDatasets()
    assert len(listed) == 2, listed
    found = connection.searchDataset({{"a": "b c", "d": [1, 2]}})
    assert len(found) == 1, found
    assert connection.getDataset("0007") is not None
    # what it sends after it has met an error
    assert "***" not in connection._auth_headers["Authorization"]
    count += 4
print(json.dumps(count))
"""

GBDX_LOGIN = """
from gbdx_auth import gbdx_auth
session = gbdx_auth.get_session()
assert session.get({url!r} + "/auth/v1/validate_token").json()["username"] == {username!r}
"""

GBDX_WORK = """
import json, time
from gbdx_auth import gbdx_auth
session = gbdx_auth.get_session()
end = time.monotonic() + {seconds}
count = 0
while time.monotonic() < end:
    answer = session.get({base!r} + "auth/v1/validate_token")
    assert answer.status_code == 200, answer.text
    answer = session.post({base!r} + "catalog/v2/search", json={{"filters": []}})
    assert answer.json()["stats"]["recordsReturned"] == 1, answer.text
    answer = session.delete({base!r} + "workflows/v1/tasks/a*b")
    assert answer.status_code == 204 and answer.content == b"", answer.status_code
    count += 3
print(json.dumps(count))
"""


def unsigned_jwt():
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'exp': 4102444800})}.c2lnbmF0dXJl"


def main():
    stand_ins = StandIns(lifetime=LIFETIME)
    gdh, gbdx = stand_ins.places["gdh"], stand_ins.places["gbdx"]
    # a refresh token belongs to the client id that got it: here, the one of the stand-in's login settings
    config = stand_ins.config().replace('provider = "gdh"', 'provider = "gdh"\nclient_id = "stand-in-client"')
    own_port = free_port()
    valetd = Valetd(config + f'[route.gdh]\nlisten = "127.0.0.1:{own_port}"\n').start()

    def python(package, text, **more):
        done = run([need_python(package), "-c", text],
                   env=valetd.environment(OAUTHLIB_INSECURE_TRANSPORT=1, **more))
        assert done.returncode == 0, (done.stdout + done.stderr)[-800:]
        return done.stdout

    with check("geodatahub signs in and writes ~/.gdh/authentication"):
        python("geodatahub", GDH_LOGIN.format(url=gdh["url"], code=stand_ins.say("sign-in")["code"]))
        kept = json.loads((valetd.home / ".gdh" / "authentication").read_text())
        same(list(kept), ["refresh_token"], "what it keeps")
    with check("what geodatahub wrote is taken over"):
        need_python("geodatahub")
        words = valetd.verb("login", "gdh", "--import")
        assert ".gdh/authentication" in words, words
        assert kept["refresh_token"] not in words, "the token is printed"
        valetd.until("gdh", lambda account: account["usable"])
    with check("gbdx-auth signs in and writes ~/.gbdx-config"):
        need_python("gbdx_auth")
        file = valetd.home / ".gbdx-config"
        file.write_text(f"[gbdx]\nauth_url = {gbdx['token_endpoint']}\nclient_id = x\nclient_secret = y\n"
                        f"user_name = {stand_ins.places['username']}\nuser_password = {stand_ins.places['password']}\n")
        python("gbdx_auth", GBDX_LOGIN.format(url=gbdx["url"], username=stand_ins.places["username"]))
        assert "[gbdx_token]" in file.read_text(), file.read_text()
    with check("what gbdx-auth wrote is taken over"):
        need_python("gbdx_auth")
        words = valetd.verb("login", "gbdx", "--import")
        assert ".gbdx-config" in words, words
        assert stand_ins.places["password"] not in words, "the password is printed"
        valetd.until("gbdx", lambda account: account["usable"])
    (valetd.home / ".gdh" / "authentication").unlink(missing_ok=True)
    (valetd.home / ".gbdx-config").unlink(missing_ok=True)

    clients = (
        ("gdh", "geodatahub", GDH_WORK.format(url=gdh["url"], base=valetd.url("gdh"), seconds=10), 10, {}),
        # it joins its paths to the base as browsers do, so that a prefix without a last slash is lost: a port is not
        ("gdh", "geodatahub", GDH_WORK.format(url=gdh["url"], base=f"http://127.0.0.1:{own_port}", seconds=5), 5, {}),
        ("gbdx", "gbdx_auth", GBDX_WORK.format(base=valetd.url("gbdx"), seconds=10), 10,
         {"GBDX_ACCESS_TOKEN": unsigned_jwt()}),
    )
    for account, package, program, seconds, more in clients:
        with check(f"{package} works through the daemon with a made-up token for {seconds} s, over renewals"):
            need_python(package)
            before = valetd.account(account)["renewals"]
            count = json.loads(python(package, program, **more).splitlines()[-1])
            assert count >= 12, f"only {count} requests"
            assert valetd.account(account)["renewals"] > before, "no renewal went by"
            refused = stand_ins.say("log")[account]["without_good_token"]
            # the client asks for its login settings at the API itself; they need no token
            same([call for call in refused if call != "GET /login"], [], "requests without a good token")
    with check("the twin: with a made-up token at the API itself, geodatahub fails"):
        program = GDH_WORK.format(url=gdh["url"], base=gdh["url"] + "/", seconds=1)
        done = run([need_python("geodatahub"), "-c", program], env=valetd.environment())
        assert done.returncode != 0, done.stdout


main()
