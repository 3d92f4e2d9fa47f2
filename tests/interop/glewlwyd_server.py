"""glewlwyd with its OpenID Connect plugin opened up: code and PKCE, device code, pushed requests, registration, rotation at every
use. Set up by its own API. The person is ada / "correct horse"."""

import gzip
import http.cookiejar
import json
import shutil
import sqlite3
import urllib.request
from pathlib import Path

from harness import Missing, must, need, spawn, until_listening

# the server's, of which the packaged settings name a dozen more
MODULES = "/usr/lib/glewlwyd"
WEBAPP = Path("/usr/share/glewlwyd/webapp")
SCHEMA = Path("/usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz")


def serve(place, port, external_url, settings):
    """Starts it with a fresh database and these settings besides; the process, and what makes something by its API."""
    if not SCHEMA.exists():
        raise Missing("the database schema of glewlwyd is not installed")
    database = sqlite3.connect(place / "db")
    database.executescript(gzip.decompress(SCHEMA.read_bytes()).decode())
    database.close()
    (place / "conf").write_text(f"""
port={port}
bind_address="127.0.0.1"
external_url="{external_url}"
api_prefix="api"
login_url="login.html"
{settings}
cookie_secure=0
cookie_same_site="empty"
session_expiration=3600
session_key="GLEWLWYD2_SESSION_ID"
admin_scope="g_admin"
profile_scope="g_profile"
user_module_path="{MODULES}/user"
client_module_path="{MODULES}/client"
user_auth_scheme_module_path="{MODULES}/scheme"
plugin_module_path="{MODULES}/plugin"
use_secure_connection=false
secure_connection_key_file="none"
secure_connection_pem_file="none"
secure_connection_ca_file="none"
hash_algorithm="SHA512"
database = {{ type = "sqlite3"; path = "{place}/db"; }};
""")
    child = spawn([need("glewlwyd"), f"--config-file={place}/conf"], log=place / "log")
    until_listening(port, child)
    session = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                          urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def make(path, what, method="POST"):
        body = json.dumps(what).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", body,
                                         {"Content-Type": "application/json"}, method=method)
        session.open(request, timeout=20)

    make("auth/", {"username": "admin", "password": "password"})
    return child, make


def start(place, port, back):
    """Starts it with clients that come back to `back`; its issuer."""
    url = f"http://127.0.0.1:{port}"
    # the package's pages, with settings of ours in the place of its own
    must(["cp", "-rL", WEBAPP, place / "webapp"])
    shutil.rmtree(place / "webapp" / "config.json", ignore_errors=True)  # a folder, by a mistake of the package
    settings = json.loads((WEBAPP.parent / "templates" / "config.json").read_text())
    settings |= {"GlewlwydUrl": f"{url}/", "ProfileUrl": f"{url}/profile.html", "LoginUrl": f"{url}/login.html"}
    (place / "webapp" / "config.json").write_text(json.dumps(settings))
    kinds = {".html": "text/html", ".css": "text/css", ".js": "application/javascript", ".json": "application/json"}
    mime_types = ", ".join(f'{{ extension = "{ending}"; mime_type = "{kind}" }}' for ending, kind in kinds.items())
    _, make = serve(place, port, url, "\n".join([
        f'static_files_path="{place}/webapp/"', f"static_files_mime_types = ({mime_types})",
        'log_mode="file"', f'log_file="{place}/log"', 'log_level="DEBUG"']))
    issuer = f"{url}/api/oidc"
    make("mod/plugin/", {"module": "oidc", "name": "oidc", "display_name": "oidc", "order_rank": 0, "parameters": {
        "iss": issuer, "jwt-type": "sha", "jwt-key-size": "256", "key": "of no value, but long enough for it",
        "access-token-duration": 60, "refresh-token-duration": 3600, "code-duration": 600,
        "refresh-token-rolling": True, "refresh-token-one-use": "always", "allow-non-oidc": True,
        "auth-type-code-enabled": True, "auth-type-code-revoke-replayed": True, "auth-type-token-enabled": False,
        "auth-type-id-token-enabled": True, "auth-type-none-enabled": False, "auth-type-password-enabled": True,
        "auth-type-client-enabled": True, "auth-type-refresh-enabled": True, "auth-type-device-enabled": True,
        "device-authorization-expiration": 300, "device-authorization-interval": 2,
        "scope": [], "additional-parameters": [], "claims": [], "service-documentation": "", "op-policy-uri": "",
        "op-tos-uri": "", "subject-type": "public", "jwks-show": True,
        "introspection-revocation-allowed": True, "introspection-revocation-allow-target-client": True,
        "introspection-revocation-auth-scope": [],
        "pkce-allowed": True, "pkce-required": True, "pkce-method-plain-allowed": False, "pkce-required-public-client": True,
        "oauth-as-iss-id": True,
        "oauth-par-allowed": True, "oauth-par-required": False, "oauth-par-request_uri-prefix": "urn:lab:request:",
        "oauth-par-duration": 60,
        "register-client-allowed": True, "register-client-auth-scope": [], "register-client-credentials-scope": ["read"],
        "register-client-management-allowed": True, "register-client-token-one-use": False}})
    make("scope/", {"name": "read", "display_name": "read", "password_required": True, "password_max_age": 0, "scheme": {}})
    flows = ["code", "password", "refresh_token", "client_credentials", "delete_token", "device_authorization"]
    common = {"enabled": True, "redirect_uri": [back], "scope": ["read", "openid"], "authorization_type": flows}
    make("client/", {"client_id": "valetd", "name": "valetd", "confidential": False, **common})
    make("user/", {"username": "ada", "name": "Ada", "email": "ada@example.org", "password": "correct horse", "enabled": True,
                   "scope": ["read", "openid"]})
    # she has agreed already: its page wants boxes ticked that have no names
    make("auth/", {"username": "ada", "password": "correct horse"})
    make("auth/grant/valetd", {"scope": "read openid"}, "PUT")
    return issuer
