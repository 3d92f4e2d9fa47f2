"""The key of sealed credentials comes from what people have: age, pass with gpg, a TPM (swtpm, by tpm2-tools), each as a
command; and it is away, not lost, while they cannot give it."""

import contextlib
import json
import os
import secrets
import socket
import subprocess

from harness import Handler, Server, Valetd, check, eventually, folder, must, need, spawn

REFRESH_TOKEN = "refresh-token-canary-" + secrets.token_hex(16)


class TokenEndpoint(Handler):
    def do_POST(self):
        self.body()
        found = {"access_token": secrets.token_hex(16), "token_type": "Bearer", "expires_in": 3600}
        self.answer(200, json.dumps(found).encode(), "application/json")


def home(server, command, variables=None):
    return Valetd(f"""
store.seal = {{ command = {json.dumps([str(word) for word in command])} }}
[account.lab]
token_endpoint = "{server.url}/token"
client_id = "c"
header = "Authorization: Bearer {{access_token}}"
upstream = "{server.url}"
[route.lab]
account = "lab"
upstream = "{server.url}"
""", variables=variables)


def kept(valetd):
    return "".join(path.read_text(errors="replace") for path in (valetd.home / "state").rglob("*") if path.is_file())


def works(valetd, key, take_away, give_back):
    """Seals, starts, and starts again without and with the key."""
    valetd.verb("login", "lab", "--refresh-token-stdin", "--untried", input=REFRESH_TOKEN)
    assert REFRESH_TOKEN in kept(valetd), "it lies in the clear at first"
    said = valetd.verb("seal", "on")
    assert "kept by: command" in said, said
    found = kept(valetd)
    assert REFRESH_TOKEN not in found and key not in found, "it is found in the state folder"
    valetd.start()
    valetd.until("lab", lambda account: account["usable"])
    valetd.stop()
    take_away()
    valetd.start()
    valetd.until("lab", lambda account: account["state"] == "store-locked")
    give_back()
    valetd.verb("unlock")
    valetd.until("lab", lambda account: account["usable"])
    valetd.stop()
    valetd.verb("seal", "off")
    assert REFRESH_TOKEN in kept(valetd), "unsealed, it is the one that was"


def age(server):
    need("age"), need("age-keygen")
    place, key = folder("age"), secrets.token_urlsafe(32)
    must(["age-keygen", "-o", place / "identity"])
    recipient = must(["age-keygen", "-y", place / "identity"]).strip()
    must(["age", "-r", recipient, "-o", place / "key.age"], input=key + "\n")
    identity, away = place / "identity", place / "stick"
    valetd = home(server, ["age", "-d", "-i", identity, place / "key.age"])
    works(valetd, key, lambda: identity.rename(away), lambda: away.rename(identity))


def with_pass(server):
    need("pass"), need("gpg")
    place, key = folder("pass"), secrets.token_urlsafe(32)
    gnupg = place / "gnupg"
    gnupg.mkdir(mode=0o700)
    variables = {"GNUPGHOME": str(gnupg), "PASSWORD_STORE_DIR": str(place / "store")}
    env = os.environ | variables
    try:
        must(["gpg", "--batch", "--passphrase", "", "--quick-generate-key", "me@valetd.invalid"], env=env)
        must(["pass", "init", "me@valetd.invalid"], env=env)
        must(["pass", "insert", "-m", "valetd"], env=env, input=key + "\n")
        secret, away = gnupg / "private-keys-v1.d", gnupg / "away"

        def move(source, target):
            source.rename(target)
            must(["gpgconf", "--kill", "gpg-agent"], env=env)

        valetd = home(server, ["pass", "valetd"], variables)
        works(valetd, key, lambda: move(secret, away), lambda: move(away, secret))
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], env=env, check=False)


def two_free_ports():
    """The first of two that follow one another, as TPM2TOOLS_TCTI wants them, below those that connections are given."""
    while True:
        port = secrets.randbelow(10_000) + 20_000
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for number in (port, port + 1):
                held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            return port


def tpm(server):
    need("swtpm"), need("tpm2_createprimary")
    place, key = folder("tpm"), secrets.token_urlsafe(32)
    state = place / "state"
    state.mkdir()
    port = two_free_ports()
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", f"type=tcp,port={port},disconnect",
               "--ctrl", f"type=tcp,port={port + 1}", "--flags", "not-need-init,startup-clear"]
    running = [spawn(command)]
    variables = {"TPM2TOOLS_TCTI": f"swtpm:host=127.0.0.1,port={port}"}
    env = os.environ | variables

    def tools(*words, **options):
        must([str(word) for word in words], env=env, **options)
        subprocess.run(["tpm2_flushcontext", "-t"], env=env, check=False, capture_output=True)

    def is_on():
        return subprocess.run(["tpm2_getrandom", "4"], env=env, capture_output=True, check=False).returncode == 0

    eventually("swtpm runs", is_on)
    tools("tpm2_createprimary", "-c", place / "primary")
    tools("tpm2_create", "-C", place / "primary", "-i", "-", "-u", place / "public", "-r", place / "private",
          input=key + "\n")
    tools("tpm2_load", "-C", place / "primary", "-u", place / "public", "-r", place / "private", "-c", place / "sealed")
    script = f"tpm2_unseal -c {place / 'sealed'} && tpm2_flushcontext -t"
    valetd = home(server, ["sh", "-c", script], variables)

    def take_away():
        running[0].kill()
        running[0].wait()

    def give_back():
        running[0] = spawn(command)
        eventually("swtpm runs", is_on)
        # a context lives as long as the TPM is on
        tools("tpm2_createprimary", "-c", place / "primary")
        tools("tpm2_load", "-C", place / "primary", "-u", place / "public", "-r", place / "private", "-c",
              place / "sealed")

    works(valetd, key, take_away, give_back)


def main():
    server = Server(TokenEndpoint)
    with check("age gives the key, and without its identity the store is locked and nothing is lost"):
        age(server)
    with check("pass with gpg gives the key, and without gpg's secret key the store is locked and nothing is lost"):
        with_pass(server)
    with check("a TPM gives the key by tpm2-tools, and without it the store is locked and nothing is lost"):
        tpm(server)


main()
