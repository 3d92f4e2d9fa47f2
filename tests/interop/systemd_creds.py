"""The key of sealed credentials is kept by systemd's own credential service, of the releases that have one (systemd 256
and later), for root and for an ordinary user. What another machine or another user has sealed is gone, and a recovery
code opens it; while the service is not there, the key is away, and comes back by itself.

The service runs in a root of its own, below a mount namespace that only this topic sees: `/run`, the machine-id and the
users are the topic's own."""

import os
import shutil
import subprocess
import sys

HAS_MOUNTS_OF_ITS_OWN = "VALETD_INTEROP_HAS_MOUNTS"
if HAS_MOUNTS_OF_ITS_OWN not in os.environ and os.geteuid() == 0:
    enter = ["unshare", "--mount", "--propagation", "private", "--"]
    if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[HAS_MOUNTS_OF_ITS_OWN] = "yes"
        os.execvp("unshare", [*enter, sys.executable, "-u", *sys.argv])

import json
from pathlib import Path

from harness import TOOLS, VALETD, Missing, check, eventually, folder, must, need, same, spawn
from sealing import home, is_usable, kept, renew, said_by, seal_status, sign_in, token_server

# Debian's releases whose systemd has such a service.
RELEASES = ["trixie", "forky"]
MACHINE, OTHER_MACHINE = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
ANN, BOB = 1500, 1501
SOCKET = Path("/run/systemd/io.systemd.Credentials")
# As everybody may run it, wherever the build lies.
BINARY = "/run/valetd-binary"


class Service:
    """A release's service, as its systemd-creds.socket starts it: one process for each connection."""

    def __init__(self, release):
        # in our own /run, and nowhere that anybody clears: what is mounted there is the machine's
        self.root = Path("/run") / release
        for below in ("dev", "etc", "run", "usr", "var/lib/systemd"):
            (self.root / below).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            if (TOOLS / release / "usr" / name).exists():
                (self.root / name).symlink_to(f"usr/{name}")
        # on a disk: what lies in a temporary file system is no host key
        self.var = TOOLS / "host-key"
        shutil.rmtree(self.var, ignore_errors=True)
        self.var.mkdir()
        for source, target in ((TOOLS / release / "usr", "usr"), ("/dev", "dev"), ("/run", "run"),
                               ("/etc/machine-id", "etc/machine-id"), ("/etc/passwd", "etc/passwd"),
                               (self.var, "var/lib/systemd")):
            bind(source, self.root / target)
        self.secret = self.var / "credential.secret"
        self.child = None

    def start(self):
        SOCKET.parent.mkdir(exist_ok=True)
        self.child = spawn(["chroot", self.root, "systemd-socket-activate", "--accept", "--fdname=varlink", "-l",
                            SOCKET, "/usr/bin/systemd-creds"], log=folder("logs") / "service.log")
        eventually("the service listens", SOCKET.exists)
        SOCKET.chmod(0o666)

    def stop(self):
        self.child.kill()
        self.child.wait()
        SOCKET.unlink()


def bind(source, target):
    if Path(source).is_file():
        target.touch()
    must(["mount", "--bind", source, target])


def be_alone():
    """What of the machine is the topic's own from here on."""
    must(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
    Path(BINARY).touch()
    must(["mount", "--bind", VALETD, BINARY])
    users = f"ann:x:{ANN}:{ANN}::/nonexistent:/bin/sh\nbob:x:{BOB}:{BOB}::/nonexistent:/bin/sh\n"
    for name, text in (("passwd", Path("/etc/passwd").read_text() + users), ("machine-id", MACHINE + "\n")):
        own = folder("etc") / name
        own.write_text(text)
        own.chmod(0o644)
        bind(own, Path("/etc") / name)


def be_machine(number):
    Path("/etc/machine-id").write_text(number + "\n")


def users_home(server, seal, user=ANN, of=None, more=""):
    """A user's home; a copy of another one, if `of` is one."""
    program = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", BINARY]
    valetd = home(server, seal, more, program=program)
    if of:
        shutil.copytree(of.home / "state", valetd.home / "state", dirs_exist_ok=True)
    for path in [valetd.home, *valetd.home.rglob("*")]:
        os.chown(path, user, user)
    return valetd


def signed_in(seal, user=ANN, more=""):
    """A server, and a home that is signed in at it."""
    server = token_server()
    valetd = users_home(server, seal, user, more=more)
    sign_in(valetd, server)
    return server, valetd


def sealed(seal, user=ANN):
    """The same, sealed, and what was said of that."""
    server, valetd = signed_in(seal, user)
    said = valetd.verb("seal", "on")
    assert "kept by: systemd" in said, said
    return server, valetd, said


def lives(seal, user):
    """A sealed home's life, from the sealing to the unsealing."""
    server, valetd, said = sealed(seal, user)
    if seal == "auto":
        assert "chosen: systemd's credential service wraps a key for this user on this machine" in said, said
    valetd.start()
    is_usable(valetd)
    first = seal_status(valetd)
    same((first["source"], first["locked"]), ("systemd", None), "the seal")
    for _ in range(3):
        renew(valetd, server)
    valetd.stop()
    valetd.start()
    is_usable(valetd)
    valetd.verb("seal", "rotate")
    assert seal_status(valetd)["key_id"] != first["key_id"], "it is the same key"
    valetd.verb("seal", "recovery")
    renew(valetd, server)
    valetd.stop()
    found = kept(valetd)
    assert not any(token in found for token in server.given), "a refresh token lies in the clear"
    valetd.start()
    is_usable(valetd)
    valetd.verb("seal", "off")
    valetd.stop()
    assert server.newest in kept(valetd), "unsealed, it is the one that was"
    valetd.start()
    is_usable(valetd)
    valetd.stop()
    same(server.refused, 0, "spent tokens that were presented")


def is_gone_until_the_code(server, valetd, code, words):
    """The key is said to be gone, and the recovery code opens the store for good."""
    if valetd.stopped:
        valetd.start()
    account = valetd.until("lab", lambda account: account["state"] == "key-gone")
    told = json.dumps(account) + said_by(valetd, "status") + said_by(valetd, "doctor")
    assert words in told, told
    assert "unlock --recovery" in told, told
    same(server.refused, 0, "spent tokens that were presented")
    opened = valetd.verb("unlock", "--recovery-stdin", input=code)
    assert "kept by: systemd" in opened, opened


def loses_the_host_key(service):
    server, valetd, _ = sealed("systemd")
    code = valetd.verb("seal", "recovery").split("\n")[0]
    away = service.secret.with_name("away")
    service.secret.rename(away)
    valetd.start()
    valetd.until("lab", lambda account: account["state"] == "key-gone")
    away.rename(service.secret)
    is_usable(valetd)  # by itself: it is still asked for
    valetd.stop()
    service.secret.rename(away)
    is_gone_until_the_code(server, valetd, code, "a host key that this machine does not have")
    is_usable(valetd)
    valetd.stop()
    # by the new host key from now on, which another one took the place of
    valetd.start()
    is_usable(valetd)
    valetd.stop()
    service.secret.unlink()
    away.rename(service.secret)
    is_gone_until_the_code(server, valetd, code, "wrapped for another machine or another user")
    is_usable(valetd)
    valetd.stop()


def moves_to_another_machine():
    server, valetd, _ = sealed("systemd")
    code = valetd.verb("seal", "recovery").split("\n")[0]
    valetd.start()
    is_usable(valetd)
    valetd.stop()
    be_machine(OTHER_MACHINE)
    is_gone_until_the_code(server, valetd, code, "a host key that this machine does not have")
    valetd.until("lab", lambda account: account["state"] == "other-machine")
    valetd.verb("adopt", "lab")
    is_usable(valetd)
    renew(valetd, server)
    valetd.stop()
    same(server.refused, 0, "spent tokens that were presented")


def is_anothers():
    server, anns, _ = sealed("systemd")
    code = anns.verb("seal", "recovery").split("\n")[0]
    bobs = users_home(server, "systemd", BOB, of=anns)
    is_gone_until_the_code(server, bobs, code, "wrapped for another machine or another user")
    is_usable(bobs)
    bobs.stop()


def waits_for_the_service(service):
    server, valetd, _ = sealed("systemd")
    service.stop()
    try:
        valetd.start()
        valetd.until("lab", lambda account: account["state"] == "store-locked")
        said = said_by(valetd, "status")
        assert "there is no credential service" in seal_status(valetd)["locked"], said
    finally:
        service.start()
    is_usable(valetd)
    renew(valetd, server)
    valetd.stop()


def seals_nothing(service):
    """Without the service, nothing is sealed by what was named; with it, nothing by `auto` that others are to open."""
    server, valetd = signed_in("systemd")
    service.stop()
    try:
        refused = said_by(valetd, "seal", "on")
        assert "there is no credential service" in refused, refused
        assert server.newest in kept(valetd), "it is as it was"
    finally:
        service.start()
    server, valetd = signed_in("auto", more='store.machine = "any"')
    refused = said_by(valetd, "seal", "on")
    assert "opens on this machine alone" in refused, refused
    assert server.newest in kept(valetd), "it is as it was"


def main(release):
    if os.geteuid() != 0:
        raise Missing("only root can make a root for the service; this is run without it")
    if HAS_MOUNTS_OF_ITS_OWN not in os.environ:
        raise Missing("there can be no mount namespace here")
    need("setpriv"), need("chroot")
    if not (TOOLS / release / "usr/bin/systemd-creds").exists():
        raise Missing(f"systemd of Debian's {release} is not there (it comes with --install, by mmdebstrap, as root)")
    if not Path(BINARY).exists():
        be_alone()
    be_machine(MACHINE)
    service = Service(release)
    service.start()
    library = next((TOOLS / release / "usr/lib").glob("*/systemd/libsystemd-shared-*.so"))
    of = f"systemd {library.stem.rpartition('-')[2]}"
    try:
        for name, user in (("root", 0), ("an ordinary user", ANN)):
            for seal in ("systemd", "auto"):
                claim = "through renewals, restarts, another key, and off"
                with check(f"{of} keeps the key of {name} (store.seal = {seal}) {claim}"):
                    lives(seal, user)
        with check(f"{of}: without the host key, the key is gone, and the recovery code opens the store"):
            loses_the_host_key(service)
        with check(f"{of}: what another user has sealed is gone, and the recovery code opens it"):
            is_anothers()
        with check(f"{of}: while the service is not there, the key is away, and comes back by itself"):
            waits_for_the_service(service)
        with check(f"{of}: nothing is sealed by a service that is not there, nor, unless by name, for any machine"):
            seals_nothing(service)
        with check(f"{of}: on a machine with another id, the key is gone, and what the code opens waits to be adopted"):
            moves_to_another_machine()
    finally:
        service.stop()
        shutil.rmtree(service.var)


for each in RELEASES:
    with check(f"the service of {each} runs"):
        main(each)
