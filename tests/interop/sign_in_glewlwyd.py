"""A person signs in at glewlwyd (Debian; C, by people who share no code with the others): code, pushed request, device code and
registration, through its own pages in a headless Chromium. It compares the redirect's port, so the account has one."""

import glewlwyd_server
from harness import Valetd, check, folder, free_port, need, need_node
from signing_in import Terminal, begin, feature, person, sign_out, walk, walk_device

SERVER = "glewlwyd"


def main():
    need_node("puppeteer-core")
    need("chromium")
    back = f"http://127.0.0.1:{free_port()}/callback"
    issuer = glewlwyd_server.start(folder("glewlwyd"), free_port(), back)

    def account(name, client, ways):
        return (f'[account.{name}]\nissuer = "{issuer}"\n{client}\nscopes = ["openid", "read"]\nredirect = "{back}"\n'
                f'sign_in = {ways}\nupstream = "{issuer}"\n')

    valetd = Valetd(account("lab", 'client_id = "valetd"', '["browser", "device"]')
                    + account("new", 'client = "register"', '["browser"]')
                    + account("devices", 'client = "register"', '["device"]')).start()
    walk(valetd, SERVER, shown="[A-Za-z0-9]{32};", SCRIPTED=1)  # its subjects are random, by client
    sign_out(valetd, SERVER)
    walk_device(valetd, SERVER, SCRIPTED=1)
    with feature(SERVER, "pushed request", "the request is pushed, and the address is short"):
        terminal, address = begin(valetd, "lab", "--no-browser")
        terminal.child.kill()
        assert "request_uri=" in address and "code_challenge" not in address, address
    with feature(SERVER, "registration", "a client registers itself"):
        # it wants authentication of what it has just registered as public, so this goes no further
        terminal = Terminal(valetd, "new", "--no-browser")
        status, shown = terminal.end()
        assert (valetd.home / "state" / "valetd" / "new.client.json").exists(), shown
        assert status == 1 and "answered 403" in shown, shown
    with feature(SERVER, "registration of devices", "a client registers itself for device codes, by the server's own name"):
        # at registration it has another name for them than RFC 8628 section 3.4, and then the same wish as above
        status, shown = Terminal(valetd, "devices", "--no-browser", "--no-qr").end()
        assert (valetd.home / "state" / "valetd" / "devices.client.json").exists(), shown
        assert status == 1 and "answered 403" in shown, shown


with check("glewlwyd and Chromium are here, and the topic comes to its end"):
    need("glewlwyd")
    main()
