"""A company's network: names that nobody here can look up, in TLS, behind a forward proxy. Everything is on loopback."""

import http.client
import socket
import ssl
import threading

from harness import Handler, Server, folder, must, need

# What a program may be told of a company's authority by, before valetd is there.
TRUST_VARIABLES = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE",
                   "NODE_EXTRA_CA_CERTS", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]


class Network:
    """`names` are the hosts of one certificate, whose authority is in `authority`."""

    def __init__(self, *names):
        need("openssl")
        self.folder = folder("network")
        self.authority, self.certificate, self.key = (self.folder / name for name in ("ca.pem", "leaf.pem", "leaf.key"))
        self._certify(names)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, self.key)
        self.places = {}
        self.targets = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=accept, args=(self.listener, self._proxy), daemon=True).start()

    def _certify(self, names):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        ca_key, request, extensions = (self.folder / name for name in ("ca.key", "leaf.csr", "extensions"))
        must(["openssl", "req", "-x509", *key, "-keyout", ca_key, "-out", self.authority, "-days", "2", "-subj",
              "/CN=a company's authority", "-addext", "basicConstraints=critical,CA:TRUE",
              "-addext", "keyUsage=critical,keyCertSign"])
        must(["openssl", "req", *key, "-keyout", self.key, "-out", request, "-subj", f"/CN={names[0]}"])
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names) + "\n"
                              "extendedKeyUsage=serverAuth\n")
        must(["openssl", "x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", ca_key, "-CAcreateserial",
              "-days", "2", "-extfile", extensions, "-out", self.certificate])

    def site(self, host, handler):
        """A server in TLS for a host; its `seen` has the requests."""
        server = type("Site", (_Site,), {"context": self.context})(handler)
        self.places[host] = server.port
        return server

    def relay(self, host, port):
        """TLS for a host before a server in the clear."""
        self.site(host, Forward).port_behind = port

    def _proxy(self, client):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = client.recv(1)
            if not byte:
                return client.close()
            head += byte
        method, target = head.split(b" ", 2)[:2]
        host, _, _ = target.decode().partition(":")
        self.targets.append(host)
        if method != b"CONNECT" or host not in self.places:
            client.sendall(b"HTTP/1.1 502 Nobody\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return client.close()
        server = socket.create_connection(("127.0.0.1", self.places[host]))
        client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        carry(client, server)


class _Site(Server):
    context = None

    def get_request(self):
        client, address = super().get_request()
        # the handshake is for the connection's own thread
        return self.context.wrap_socket(client, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request, client_address):
        pass  # of clients that are to distrust us


class Forward(Handler):
    """Asks a server in the clear."""

    def do_GET(self):
        body = b"".join(self.body())
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port_behind, timeout=60)
        connection.request(self.command, self.path, body=body or None, headers=headers)
        answer = connection.getresponse()
        fields = {name: value for name, value in answer.getheaders()
                  if name.lower() not in ("content-length", "content-type", "connection", "transfer-encoding", "date")}
        self.answer(answer.status, answer.read(), answer.getheader("Content-Type", "text/plain"), **fields)
        connection.close()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET


def accept(listener, serve):
    def one(client):
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serve(client)
        except OSError:
            client.close()

    while True:
        client, _ = listener.accept()
        threading.Thread(target=one, args=(client,), daemon=True).start()


def carry(one, other):
    """Bytes both ways, until both directions have ended."""
    back = threading.Thread(target=_pump, args=(other, one), daemon=True)
    back.start()
    _pump(one, other)
    back.join()
    one.close()
    other.close()


def _pump(source, sink):
    try:
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    except OSError:
        pass
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
