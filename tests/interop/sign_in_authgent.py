"""A person signs in at authgent-server (PyPI; Python and FastAPI), made for agents: the client registers itself there, a headless
Chromium goes through its consent page. It compares the redirect's port, against RFC 8252 section 7.3, so the account has one."""

from harness import SERVERS_PYTHON, Valetd, check, environment, folder, free_port, need, need_node, need_python, run, spawn
from harness import until_listening
from signing_in import absent, begin, feature, person, sign_out

SERVER = "authgent"


def start():
    place, port = folder("authgent"), free_port()
    issuer = f"http://127.0.0.1:{port}"
    need_python("authgent_server", python=SERVERS_PYTHON)
    program = SERVERS_PYTHON.parent / "authgent-server"
    settings = environment(AUTHGENT_SERVER_URL=issuer, AUTHGENT_CONSENT_MODE="ui",
                           AUTHGENT_DATABASE_URL=f"sqlite+aiosqlite:///{place}/db", AUTHGENT_SECRET_KEY="0" * 64)
    child = spawn([program, "run", "--host", "127.0.0.1", "--port", port], log=place / "log", env=settings, cwd=place)
    until_listening(port, child)
    run([program, "create-user", "--username", "ada", "--password", "correct horse"], env=settings, cwd=place)
    return issuer


def main():
    need_node("puppeteer-core")
    need("chromium")
    issuer = start()
    valetd = Valetd(f'[account.lab]\nissuer = "{issuer}"\nclient = "register"\nsign_in = ["browser"]\n'
                    f'scopes = ["openid", "offline_access"]\nupstream = "{issuer}"\n'
                    f'redirect = "http://127.0.0.1:{free_port()}/callback"\n').start()
    with feature(SERVER, "registration", "a client registers itself, and asks for a sign-in"):
        terminal, address = begin(valetd, "lab", "--no-browser")
    with feature(SERVER, "code, PKCE S256", "a real browser signs in through the server's own pages"):
        page = person(address, "ada", "correct horse")
        status, shown = terminal.end()
        assert status == 0 and "lab: signed in" in shown, (page, shown)
    with feature(SERVER, "rotation", "the refresh token that came is renewed"):
        valetd.until("lab", lambda account: account["usable"])
        before = valetd.account("lab")["credential"]["generation"]
        valetd.verb("refresh", "lab")
        assert valetd.account("lab")["credential"]["generation"] > before
    sign_out(valetd, SERVER)
    absent(SERVER, "pushed request")


with check("authgent-server and Chromium are here, and the topic comes to its end"):
    main()
