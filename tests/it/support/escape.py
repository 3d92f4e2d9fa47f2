"""Attempts to get out of `valetd exec --isolate`. Prints a line for each: "held NAME" or "OUT NAME what was got"."""

import ctypes, errno, fcntl, glob, os, socket, sys, urllib.request

facts = dict(word.split("=", 1) for word in sys.argv[1:])
port, other = int(facts["port"]), facts["other"]
libc = ctypes.CDLL(None, use_errno=True)
got = []


def attempt(name, act):
    try:
        result = act()
    except SystemExit:
        raise
    except BaseException as why:
        print(f"held {name}: {type(why).__name__} {why}")
        return
    print(f"held {name}: nothing" if result in (None, False, [], "") else f"OUT {name}: {result!r}")


def connects(address, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    def act():
        with socket.socket(family, kind) as s:
            s.settimeout(2)
            s.connect(address)
            if kind == socket.SOCK_DGRAM:
                s.send(b"x")
        return "connected"
    return act


def asks(request, address=("127.0.0.1", 3128), good=(" 200 ",)):
    def act():
        with socket.create_connection(address, 3) as s:
            s.settimeout(5)
            s.sendall(request.encode())
            line = s.recv(4096).decode(errors="replace").split("\r\n")[0]
        return line if any(word in line for word in good) else None
    return act


def tunnel(target):
    return asks(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")


def call(number, *arguments):
    def act():
        result = libc.syscall(number, *arguments)
        if result == -1:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return f"system call {number} gave {result}"
    return act


def reads(path):
    def act():
        if os.path.isdir(path):
            return os.listdir(path)
        with open(path, "rb") as f:
            return f.read(64)
    return act


def writes(path):
    def act():
        with open(path, "ab") as f:
            f.write(b"x")
        return "written"
    return act


def unix(path):
    return connects(path, socket.AF_UNIX)


key = facts["key"]
url = os.environ["API_URL"]
assert urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + "/x").status == 200, "the way that is meant is open"

# the network
attempt("the daemon's own address", connects(("127.0.0.1", port)))
attempt("the same in IPv6", connects(("::1", port), socket.AF_INET6))
attempt("a listener of this machine", connects(("127.0.0.1", int(facts["listener"]))))
attempt("a datagram", connects(("198.51.100.1", 53), kind=socket.SOCK_DGRAM))
attempt("another machine", connects(("198.51.100.1", 80)))
attempt("another machine in IPv6", connects(("2001:db8::1", 80), socket.AF_INET6))
attempt("the metadata service", connects(("169.254.169.254", 80)))
attempt("a name", lambda: socket.getaddrinfo("example.org", 80))
attempt("an abstract socket", unix("\0" + facts["abstract"]))
attempt("a raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) and "made")
attempt("a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) and "made")
attempt("the hypervisor", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) and "made")
attempt("the kernel's cryptography", lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) and "made")

# the proxy and the routes' URLs
attempt("a tunnel to the daemon", tunnel(f"127.0.0.1:{port}"))
attempt("a tunnel to the daemon by name", tunnel(f"localhost:{port}"))
attempt("a tunnel to the daemon in IPv6", tunnel(f"[::1]:{port}"))
attempt("a tunnel to a listener", tunnel(f"127.0.0.1:{facts['listener']}"))
attempt("a tunnel to the metadata service", tunnel("169.254.169.254:80"))
attempt("a tunnel to another route's host", tunnel(f"{other}:443"))
attempt("a tunnel to another port of the host", tunnel("api.example:22"))
attempt("a tunnel with a user name", tunnel("api.example:443@127.0.0.1:80"))
attempt("plain http to the daemon", asks(f"GET http://127.0.0.1:{port}/other/x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"))
attempt("plain http elsewhere", asks("GET http://198.51.100.1/ HTTP/1.1\r\nHost: 198.51.100.1\r\n\r\n"))
attempt("the proxy as a server", asks("GET /other/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
base = ("127.0.0.1", 8253)
attempt("another route's URL", asks("GET /other/x HTTP/1.1\r\nHost: 127.0.0.1:8253\r\n\r\n", base))
attempt("another route's host name", asks("GET /x HTTP/1.1\r\nHost: other.localhost:8253\r\n\r\n", base))
attempt("another job's key", asks(f"GET /other/x HTTP/1.1\r\nHost: 127.0.0.1:8253\r\nX-Valetd-Key: {key}\r\n\r\n", base))
attempt("another job's key in the URL", asks(f"GET /{key}/other/x HTTP/1.1\r\nHost: 127.0.0.1:8253\r\n\r\n", base))
attempt("the control interface", asks("GET /v1/status HTTP/1.1\r\nHost: valetd\r\n\r\n", base))

# files and sockets
for name in ["control", "agent", "bus"]:
    attempt(f"the socket of {name}", unix(facts[name]))
for name in ["service", "datagrams"]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        attempt(f"the socket of a {name} in a folder of the system", connects(facts[name], socket.AF_UNIX, kind))
for name in ["state", "config", "secret", "temporary", "runtime"]:
    attempt(f"the files of {name}", reads(facts[name]))
for path in ["/var/run/docker.sock", "/run/docker.sock", "/run/dbus/system_bus_socket", "/run/user", "/sys/kernel", "/dev/mem",
             "/dev/kmsg", "/root/.ssh", "/home", "/mnt", "/srv"]:
    attempt(path, reads(path))
def private():
    """Files of the system's settings that are for some alone."""
    found = [os.path.join(folder, name) for folder, _, files in os.walk("/etc") for name in files]
    found = [path for path in found if os.path.isfile(path) and not os.path.islink(path)]
    return [path for path in found if not os.stat(path).st_mode & 0o004]


attempt("what is for some alone in /etc", private)
for path in ["/etc/shadow", "/etc/gshadow", "/etc/ssl/private", "/etc/ssh/ssh_host_ed25519_key"]:
    attempt(path, reads(path))
for path in ["/usr/bin/x", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt", "/run/valetd/hosts", "/run/valetd/x"]:
    attempt(f"writing {path}", writes(path))


def settings():
    """Opens what says how the kernel is to work, or what of it is somebody else's; writes nothing."""
    opened = []
    for folder, folders, files in os.walk("/proc"):
        if folder == "/proc":
            folders[:] = [name for name in folders if not name.isdigit() and name not in ("self", "thread-self")]
        for name in files:
            try:
                os.close(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_NONBLOCK))
                opened.append(os.path.join(folder, name))
            except OSError:
                pass
    return opened[:5]


attempt("the kernel's settings", settings)
attempt("a device", lambda: os.mknod("/tmp/device", 0o600 | 0o020000, os.makedev(1, 1)) or reads("/tmp/device")())
attempt("another root", lambda: os.chroot("/tmp") or "changed")
attempt("what init has", reads("/proc/1/root" + facts["secret"]))
attempt("links of open files", lambda: [n for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}") and not os.readlink(f"/proc/self/fd/{n}").startswith("/proc")])
attempt("variables", lambda: [n for n in os.environ if n in ("SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "DISPLAY", "GDH_REFRESH_TOKEN")])

# other processes
pids = [int(p) for p in os.listdir("/proc") if p.isdigit()]
attempt("processes outside", lambda: [p for p in pids if b"exec\0-r" in open(f"/proc/{p}/cmdline", "rb").read()])
attempt("a signal to the daemon", lambda: os.kill(int(facts["daemon"]), 0) or "sent")
attempt("tracing exec", call(101, 16, int(facts["daemon"]), 0, 0))
attempt("memory of the daemon", reads(f"/proc/{facts['daemon']}/mem"))

# system calls
buffer = ctypes.create_string_buffer(256)
attempt("a namespace of users", call(272, 0x10000000))
attempt("a namespace by clone", call(56, 0x10000000 | 17, 0, 0, 0, 0))
attempt("a mount", call(165, b"none", b"/tmp", b"tmpfs", 0, 0))
attempt("a mount by x32", call(0x40000000 | 165, b"none", b"/tmp", b"tmpfs", 0, 0))
attempt("another namespace", lambda: call(308, os.open("/proc/1/ns/net", os.O_RDONLY), 0)())
attempt("io_uring", call(425, 1, buffer))
attempt("bpf", call(321, 0, buffer, 64))
attempt("keys of the kernel", call(250, 0, 0xFFFFFFFD, 1))
attempt("performance counters", call(298, buffer, 0, -1, -1, 0))
attempt("page faults", call(323, 0))
attempt("a file handle", call(304, 0, buffer, 0))
attempt("kexec", call(246, 0, 0, 0, 0))


def types_ahead():
    with open("/dev/tty", "rb+", buffering=0) as tty:
        fcntl.ioctl(tty, 0x5412, b"x")
    return "typed"


attempt("words in the terminal's mouth", types_ahead)
print("done")
