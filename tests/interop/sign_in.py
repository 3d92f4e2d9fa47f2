"""A person signs in: in a real headless Chromium, through the login and consent pages of a certified OpenID provider (npm
oidc-provider), with all that valetd is told of it being its issuer. The browser comes back to valetd's own page; or a code
is entered on "another device"; or the person says no."""

import json
import re
import subprocess

from harness import HERE, Valetd, check, need, need_node, run, same, spawn
from signing_in import Terminal, begin, feature, person

SCOPES = 'scopes = ["openid", "email", "offline_access"]\n'


def main():
    node = need_node("oidc-provider", "puppeteer-core")
    need("chromium")
    server = spawn([node, HERE / "sign_in_provider.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                   stderr=subprocess.DEVNULL, text=True)
    issuer = json.loads(server.stdout.readline())["issuer"]

    def log():
        server.stdin.write("log\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    def account(name, ways, more=""):
        return (f'[account.{name}]\nissuer = "{issuer}"\nclient_id = "valetd"\n{SCOPES}sign_in = {json.dumps(ways)}\n'
                f'authorize = {{ prompt = "consent" }}\nupstream = "{issuer}"\n{more}\n')

    valetd = Valetd(account("v4", ["browser", "device"], 'identity = "userinfo"') + account("both", ["browser"], 'redirect = "http://localhost/callback"')
                    + account("device", ["device"])
                    + account("closed", ["device", "browser"]).replace('"valetd"', '"no-devices"')).start()

    for name in ("v4", "both"):
        with feature("oidc-provider", "code, PKCE S256", f"{name}: a real browser signs in through the server's own pages and ends on ours"):
            terminal, address = begin(valetd, name, "--no-browser")
            assert "request_uri=" in address and "code_challenge" not in address, f"it was not pushed: {address}"
            page = person(address)
            same(page["address"].split("/", 3)[3], "valetd/signed-in", "the last address")
            same(page["title"], "Signed in – valetd", "the title")
            assert "You are signed in to " in page["text"] and " as ada" in page["text"] and not page["errors"], page
            status, shown = terminal.end()
            assert status == 0 and f"{name}: signed in as ada" in shown, shown
            valetd.until(name, lambda account: account["usable"])
            ours = [one for one in page["asked"] if not one.split(" ")[1].startswith((issuer, "https://fonts."))]
            same(len(ours), 2, f"the number of requests to our listener, {ours}")
    with feature("oidc-provider", "pushed request", "the server was asked once for each, after a push, and never refused anything"):
        found = log()
        same((found["pushed"], found["refused"]), (2, []), "what was pushed and refused")
    with feature("oidc-provider", "rotation", "the refresh token that came rotates as any"):
        before = log()["granted"].count("refresh_token")
        valetd.verb("refresh", "v4")
        assert log()["granted"].count("refresh_token") > before
    with feature("oidc-provider", "who signed in", "the provider is asked who is signed in"):
        said = valetd.verb("login", "v4", "--check")
        assert "ada@lab.example (ada) is signed in, says 127.0.0.1" in said, said
    with check("another person is kept out, and let in where that is meant"):
        terminal, address = begin(valetd, "v4", "--no-browser")
        person(address, name="bob")
        status, shown = terminal.end()
        assert status == 1 and "bob@lab.example (bob) signed in now" in shown and "--switch-user" in shown, shown
        terminal, address = begin(valetd, "v4", "--no-browser", "--switch-user")
        person(address, name="bob")
        status, shown = terminal.end()
        assert status == 0 and "signed in as bob@lab.example" in shown, shown
    with check("a person who says no is believed, on the page and in the terminal"):
        terminal, address = begin(valetd, "v4", "--no-browser")
        page = person(address, decision="no")
        same(page["title"], "Not signed in – valetd", "the title")
        status, shown = terminal.end()
        assert status == 3 and "refused on the server's page" in shown, shown
    with check("an address is pasted where the browser cannot come back"):
        terminal, address = begin(valetd, "both", "--no-browser")
        # a browser that is not on this machine: what it is sent to stands in its address bar all the same
        pasted = run(["python3", "-c", CARRIED], input=address, timeout=30).stdout.strip()
        assert pasted.startswith("http://localhost:"), pasted
        terminal.type(pasted)
        status, shown = terminal.end()
        assert status == 0 and "both: signed in as ada;" in shown, shown
    with feature("oidc-provider", "device code", "a code is entered on another device, and waited for"):
        terminal = Terminal(valetd, "device", "--no-browser")
        match = terminal.until(r"Open\s+(http://\S+)\s+and enter the code\s+(\S+)\s")
        terminal.until("\x1b\\[30;107m")  # the picture
        page = person(match.group(1), code=match.group(2))
        status, shown = terminal.end()
        assert status == 0 and "device: signed in as ada;" in shown, (page, shown)
        valetd.until("device", lambda account: account["usable"])
    with check("a person who says no to a device is believed"):
        terminal = Terminal(valetd, "device", "--no-browser", "--no-qr")
        match = terminal.until(r"Open\s+(http://\S+)\s+and enter the code\s+(\S+)\s")
        person(f"{match.group(1)}?user_code={match.group(2)}", decision="no")
        status, shown = terminal.end()
        assert status == 3 and "refused on the server's page" in shown, shown
    with check("a client that may use no device codes signs in in the next way"):
        terminal, address = begin(valetd, "closed", "--no-browser")
        assert "This way is closed: " in terminal.shown and "invalid_request" in terminal.shown, terminal.shown
        person(address)
        status, shown = terminal.end()
        assert status == 0 and "closed: signed in as ada;" in shown, shown
    with feature("oidc-provider", "revocation", "logout revokes at the server"):
        before = log()["revoked"]
        assert "revoked at the server" in valetd.verb("logout", "device")
        same(log()["revoked"], before + 1, "the number of revoked sign-ins")


# Signs in as a person does who has no browser: reads the pages, fills in the forms, and prints where it is sent at last.
CARRIED = r"""
import html, http.cookiejar, re, sys, urllib.parse, urllib.request
class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None
jar = http.cookiejar.CookieJar()
opener = urllib.request.build_opener(Stay, urllib.request.HTTPCookieProcessor(jar), urllib.request.ProxyHandler({}))
def go(url, data=None):
    while True:
        try:
            answer = opener.open(url, data, timeout=20)
            return url, answer.read().decode()
        except urllib.error.HTTPError as found:
            if found.code not in (302, 303):
                raise
            url, data = urllib.parse.urljoin(url, found.headers["Location"]), None
            if "/callback?" in url:
                print(url)
                sys.exit()
url, page = go(sys.stdin.read().strip())
for _ in range(6):
    form = re.search(r"<form[^>]*action=\"([^\"]+)\"[^>]*>(.*?)</form>", page, re.S)
    fields = dict(re.findall(r"<input[^>]*name=\"([^\"]+)\"[^>]*value=\"([^\"]*)\"", form.group(2)))
    fields |= {"login": "ada", "password": "x"} if "name=\"login\"" in form.group(2) else {}
    url, page = go(urllib.parse.urljoin(url, html.unescape(form.group(1))), urllib.parse.urlencode(fields).encode())
"""


with check("oidc-provider and Chromium are here, and the topic comes to its end"):
    main()
