"""A person signs in at nanoidp (PyPI; Python and Flask), a small OpenID provider: in a headless Chromium through its own login
page, and by a device code; the client registers itself."""

import json

from harness import Valetd, check, folder, free_port, need, need_node, need_python, spawn, until_listening
from signing_in import absent, begin, feature, person, sign_out, walk, walk_device
from harness import SERVERS_PYTHON

SERVER = "nanoidp"


def start():
    place, port = folder("nanoidp"), free_port()
    issuer = f"http://127.0.0.1:{port}"
    # YAML knows all of JSON
    (place / "settings.yaml").write_text(json.dumps({
        "config_version": 1, "server": {"host": "127.0.0.1", "port": port, "rate_limit_enabled": False},
        "oauth": {
            "issuer": issuer, "audience": "lab", "token_expiry_minutes": 1, "refresh_token_expiry_minutes": 60,
            "refresh_token_rotation": True, "require_pkce": True,
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "dynamic_registration": {"enabled": True, "max_clients": 50},
            "clients": [{"client_id": "valetd", "token_endpoint_auth_method": "none",
                         "redirect_uris": ["http://127.0.0.1/callback", "http://localhost/callback"],
                         "allowed_scopes": ["openid", "profile", "email", "offline_access"]}]},
        "device_flow": {"code_expiry_seconds": 60, "polling_interval": 2}, "login": {"mode": "password"},
        "session": {"secret_key": "of-no-value", "enforce_password_check": True},
        "logging": {"level": "WARNING", "log_token_requests": False, "verbose_logging": False}}))
    (place / "users.yaml").write_text(json.dumps({"config_version": 1, "users": {
        "ada": {"password": "correct horse", "email": "ada@example.org", "roles": ["USER"], "tenant": "default"}}}))
    child = spawn([need_python("nanoidp", python=SERVERS_PYTHON), "-m", "nanoidp", "--config", place],
                  log=place / "log", cwd=place)
    until_listening(port, child)
    return issuer


def main():
    need_node("puppeteer-core")
    need("chromium")
    issuer = start()

    def account(name, client):
        return (f'[account.{name}]\nissuer = "{issuer}"\n{client}\nscopes = ["openid", "email", "offline_access"]\n'
                f'sign_in = ["browser", "device"]\nupstream = "{issuer}"\n')

    valetd = Valetd(account("lab", 'client_id = "valetd"') + account("new", 'client = "register"')).start()
    walk(valetd, SERVER)
    sign_out(valetd, SERVER)
    walk_device(valetd, SERVER)
    with feature(SERVER, "registration", "a client registers itself, and signs in"):
        terminal, address = begin(valetd, "new", "--no-browser")
        person(address, password="correct horse")
        status, shown = terminal.end()
        assert status == 0 and "new: signed in as ada" in shown, shown
    absent(SERVER, "pushed request")


with check("nanoidp and Chromium are here, and the topic comes to its end"):
    main()
