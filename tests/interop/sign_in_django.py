"""A person signs in at django-oauth-toolkit (PyPI), an OpenID provider of Django's own: its login and consent pages in a headless
Chromium. Its issuer has a path, and its ID tokens name the person by a number."""

import json
import subprocess

from harness import HERE, Valetd, check, folder, need, need_node, need_python, spawn
from signing_in import absent, sign_out, walk

SERVER = "django-oauth-toolkit"


def main():
    need_node("puppeteer-core")
    need("chromium")
    need("openssl")
    python, place = need_python("oauth2_provider"), folder("django-sign-in")
    server = spawn([python, HERE / "sign_in_django_server.py", place], stdout=subprocess.PIPE, text=True,
                   stderr=open(place / "log", "ab"))
    issuer = json.loads(server.stdout.readline())["issuer"]
    valetd = Valetd(f'[account.lab]\nissuer = "{issuer}"\nclient_id = "valetd"\nsign_in = ["browser"]\n'
                    f'scopes = ["openid", "offline_access"]\nupstream = "{issuer}"\n'
                    # the toolkit's metadata leave it out
                    f'revocation_endpoint = "{issuer}/revoke_token/"\n').start()
    walk(valetd, SERVER, shown="1")
    sign_out(valetd, SERVER)
    absent(SERVER, "pushed request", "registration")


with check("django-oauth-toolkit and Chromium are here, and the topic comes to its end"):
    main()
