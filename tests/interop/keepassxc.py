"""The key of sealed credentials is kept by KeePassXC, as the Secret Service of a bus of its own: without anybody being
prompted, and without a database being made. While its database is locked, or it does not run, the key is away."""

import json
import subprocess
from pathlib import Path

from harness import Missing, check, environment, eventually, folder, must, need, need_python, same, spawn
from sealing import home, is_usable, kept, renew, said_by, seal_status, sign_in, token_server

# Writes a database with a group, which the Secret Service may show.
DATABASE = """
import sys
from lxml import etree
from pykeepass import create_database
path, password, is_exposed = sys.argv[1:]
database = create_database(path, password=password)
group = database.add_group(database.root_group, "for programs")
if is_exposed == "exposed":
    item = etree.SubElement(database.tree.find("Meta/CustomData"), "Item")
    etree.SubElement(item, "Key").text = "FDO_SECRETS_EXPOSED_GROUP"
    etree.SubElement(item, "Value").text = "{" + str(group.uuid) + "}"
database.add_entry(group, "another program's", "", "its own")
database.save()
"""
PASSWORD = "a password of the database"
BUS = """
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={address}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/> <allow eavesdrop="true"/> <allow own="*"/>
  </policy>
</busconfig>
"""
SECRETS, ROOT = "org.freedesktop.secrets", "/org/freedesktop/secrets"
SERVICE, COLLECTION = "org.freedesktop.Secret.Service", "org.freedesktop.Secret.Collection"
# Where systemd's credential service listens, if there is one.
SYSTEMD = Path("/run/systemd/io.systemd.Credentials")
WINDOW = "org.keepassxc.KeePassXC.MainWindow"


class Desktop:
    """A bus, and a KeePassXC that may run on it with a database."""

    def __init__(self, name, exposed=True, confirms=False):
        self.folder, self.is_exposed = folder(name), exposed
        self.database = self.folder / "passwords.kdbx"
        must([need_python("pykeepass"), "-c", DATABASE, self.database, PASSWORD, "exposed" if exposed else "hidden"])
        address = self.folder / "bus"
        (self.folder / "bus.conf").write_text(BUS.format(address=address).lstrip())
        spawn([need("dbus-daemon"), f"--config-file={self.folder / 'bus.conf'}", "--nofork"],
              log=self.folder / "bus.log")
        eventually("the bus is there", address.exists)
        self.variables = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={address}"}
        settings = self.folder / "config" / "keepassxc" / "keepassxc.ini"
        settings.parent.mkdir(parents=True)
        settings.write_text("[General]\nConfigVersion=2\nUpdateCheckMessageShown=true\n"
                            f"[FdoSecrets]\nEnabled=true\nConfirmAccessItem={json.dumps(confirms)}\n"
                            "[GUI]\nCheckForUpdates=false\n")
        (self.folder / "run").mkdir(mode=0o700)
        self.child = None

    def start(self):
        """KeePassXC, with its database open."""
        dirs = {"XDG_CONFIG_HOME": self.folder / "config", "XDG_CACHE_HOME": self.folder / "cache",
                "XDG_RUNTIME_DIR": self.folder / "run", "TMPDIR": self.folder / "run"}
        env = environment(self.folder, QT_QPA_PLATFORM="offscreen", **dirs, **self.variables)
        self.child = spawn([need("keepassxc"), "--pw-stdin", self.database], log=self.folder / "keepassxc.log", env=env,
                           stdin=subprocess.PIPE)
        self.child.stdin.write(PASSWORD.encode() + b"\n")
        self.child.stdin.close()
        eventually("the Secret Service is there", self.runs)
        eventually("KeePassXC has opened its database", self.is_shown_open)

    def is_shown_open(self):
        """What it does not show is on the bus until it has been opened."""
        collections = self.collections()
        if not self.is_exposed:
            return not collections
        return bool(collections) and self.property(collections[0], "Locked") is False

    def end(self):
        self.child.kill()
        self.child.wait()
        eventually("the Secret Service is gone", lambda: not self.runs())

    def call(self, owner, path, method, *arguments):
        return must([need("gdbus"), "call", "--session", "--dest", owner, "--object-path", path, "--method", method,
                     *arguments], env=environment(**self.variables))

    def runs(self):
        return "true" in self.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus.NameHasOwner", SECRETS)

    def property(self, path, name):
        interface = SERVICE if path == ROOT else COLLECTION
        said = self.call(SECRETS, path, "org.freedesktop.DBus.Properties.Get", interface, name)
        return {"(<true>,)": True, "(<false>,)": False}.get(said.strip(), said)

    def collections(self):
        return [word for word in self.property(ROOT, "Collections").split("'") if word.startswith(ROOT)]

    def items(self):
        return sum(self.property(path, "Items").count(path + "/") for path in self.collections())

    def lock(self):
        self.call(WINDOW, "/keepassxc", f"{WINDOW}.lockAllDatabases")
        eventually("it is locked", lambda: self.property(self.collections()[0], "Locked") is True)

    def unlock(self):
        self.call(WINDOW, "/keepassxc", f"{WINDOW}.openDatabase", self.database, PASSWORD)
        eventually("it is unlocked", self.is_shown_open)


def keeps_the_key():
    desktop, server = Desktop("keeps"), token_server()
    valetd = home(server, "secret-service", variables=desktop.variables)
    sign_in(valetd, server)
    refused = said_by(valetd, "seal", "on")
    assert "no keyring is running" in refused, refused
    desktop.start()
    before = desktop.items()
    said = valetd.verb("seal", "on")
    assert "kept by: secret-service" in said, said
    same(desktop.items(), before + 1, "the items")
    valetd.start()
    is_usable(valetd)
    # what is open stays open
    desktop.lock()
    renew(valetd, server)
    refused = said_by(valetd, "seal", "rotate")
    assert "the keyring is locked" in refused, refused
    valetd.stop()
    assert not any(token in kept(valetd) for token in server.given), "a refresh token lies in the clear"

    # locked at the start, nobody is asked: the response is there at once, and KeePassXC goes on answering
    valetd.start()
    valetd.until("lab", lambda account: account["state"] == "store-locked")
    eventually("it is said why", lambda: "the keyring is locked" in seal_status(valetd)["locked"], 3)
    same(desktop.property(desktop.collections()[0], "Locked"), True)
    desktop.unlock()
    is_usable(valetd)
    valetd.stop()

    # gone, and back in another process
    desktop.end()
    valetd.start()
    valetd.until("lab", lambda account: account["state"] == "store-locked")
    eventually("it is said why", lambda: "no keyring is running" in seal_status(valetd)["locked"])
    desktop.start()
    is_usable(valetd)
    first = seal_status(valetd)["key_id"]
    valetd.verb("seal", "rotate")
    assert seal_status(valetd)["key_id"] != first, "it is the same key"
    renew(valetd, server)
    valetd.stop()
    valetd.start()
    is_usable(valetd)
    valetd.verb("seal", "off")
    valetd.stop()
    assert server.newest in kept(valetd), "unsealed, it is the one that was"
    same(server.refused, 0, "spent tokens that were presented")


def is_never_prompted(name, words, is_locked=False, **options):
    """With the setting `auto`, nothing is sealed; and nothing is made in KeePassXC, nor asked there."""
    if SYSTEMD.exists():
        raise Missing("systemd's credential service, which `auto` takes, runs here")
    desktop, server = Desktop(name, **options), token_server()
    desktop.start()
    if is_locked:
        desktop.lock()
    before = (desktop.collections(), desktop.items(), desktop.database.read_bytes())
    for seal in ("auto", "secret-service"):
        valetd = home(server, seal, variables=desktop.variables)
        sign_in(valetd, server)
        refused = said_by(valetd, "seal", "on")
        assert words in refused, refused
        assert "responded" not in refused, refused
        assert server.newest in kept(valetd), "it is as it was"
    same((desktop.collections(), desktop.items(), desktop.database.read_bytes()), before, "KeePassXC's databases")


def is_chosen():
    if SYSTEMD.exists():
        raise Missing("systemd's credential service, which `auto` takes, runs here")
    desktop, server = Desktop("chosen"), token_server()
    desktop.start()
    valetd = home(server, "auto", variables=desktop.variables)
    sign_in(valetd, server)
    said = valetd.verb("seal", "on")
    assert "chosen: the keyring of the desktop is open, and keeps a key" in said, said
    valetd.start()
    is_usable(valetd)
    valetd.stop()


with check("KeePassXC keeps the key; locked or gone, the store is locked, and opens when it is back"):
    keeps_the_key()
with check("`auto` takes KeePassXC where it is open"):
    is_chosen()
with check("`auto` makes no database, nor anything else, in a KeePassXC that shows none"):
    is_never_prompted("hidden", "no default collection", exposed=False)
with check("`auto` leaves a locked KeePassXC alone"):
    is_never_prompted("locked", "the keyring is locked", is_locked=True)
with check("where KeePassXC has each access confirmed, nothing is sealed by it, and it is said what to change"):
    is_never_prompted("confirms", "Confirm when passwords are retrieved by clients", confirms=True)
