"""WebSocket through the proxy, between real clients and servers (PyPI websockets, npm ws): messages of every size, in
fragments and in odd cuts; a refused handshake is renewed and tried again; a foreign page's is refused."""

import subprocess

from harness import StandIns, Valetd, check, eventually, folder, need_node, need_python, run, same, spawn

# Both echo; both want a token, and at /once one that they have not seen before.
PYTHON_SERVER = """
import asyncio, http
from websockets.asyncio.server import serve
seen = set()
def judge(connection, request):
    token = request.headers.get("Authorization", "")
    refused = not token.startswith("Bearer eyJ") or (request.path == "/once" and token in seen)
    seen.add(token)
    if refused:
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "who are you?")
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    async with serve(echo, "127.0.0.1", 0, process_request=judge, max_size=None, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""
NODE_SERVER = """
const { WebSocketServer } = require('ws');
const seen = new Set();
const server = new WebSocketServer({
  host: '127.0.0.1', port: 0, perMessageDeflate: true, maxPayload: 1 << 28,
  verifyClient: ({ req }, answer) => {
    const token = req.headers.authorization ?? '';
    const refused = !token.startsWith('Bearer eyJ') || (req.url === '/once' && seen.has(token));
    seen.add(token);
    answer(!refused, 401);
  },
});
server.on('connection', (socket) => socket.on('message', (data, binary) => socket.send(data, { binary })));
server.on('listening', () => console.log(server.address().port));
"""

PYTHON_CLIENT = """
import asyncio, os, sys
from websockets.asyncio.client import connect
SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 1 << 20, (1 << 22) + 3]
async def main(url, compression):
    async with connect(url, max_size=None, compression=compression) as socket:
        for size in SIZES:
            for message in (os.urandom(size), "\\u00e5" * (size // 2)):
                await socket.send(message)
                assert await socket.recv() == message, size
        pieces = [os.urandom(size) for size in (1, 0, 126, 70000, 3)]
        await socket.send(pieces)  # one message, five frames
        assert await socket.recv() == b"".join(pieces)
        for number in range(200):  # many under way at once
            await socket.send(str(number))
        for number in range(200):
            assert await socket.recv() == str(number)
        await asyncio.wait_for(await socket.ping(), 20)
    assert socket.close_code == 1000, socket.close_code
asyncio.run(main(sys.argv[1], None))
asyncio.run(main(sys.argv[1], "deflate"))
"""
NODE_CLIENT = """
const { WebSocket } = require('ws');
const { randomBytes } = require('crypto');
const socket = new WebSocket(process.argv[2], { perMessageDeflate: true });
const sizes = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20, (1 << 22) + 3];
const sent = sizes.map((size) => randomBytes(size));
sent.push('fragments');
let received = 0;
socket.on('open', () => {
  for (const data of sent.slice(0, -1)) socket.send(data);
  for (const piece of ['fra', 'gmen', 't']) socket.send(piece, { fin: false });
  socket.send('s', { fin: true });
  socket.ping();
});
socket.on('message', (data) => {
  if (Buffer.compare(data, Buffer.from(sent[received++])) !== 0) { console.log('message', received); process.exit(1) }
  if (received === sent.length) socket.close(1000);
});
socket.on('close', (code) => process.exit(code === 1000 && received === sent.length ? 0 : 1));
socket.on('error', (error) => { console.log(error.message); process.exit(1) });
setTimeout(() => { console.log('timeout'); process.exit(1) }, 20000);
"""
# Frames by the package's own protocol, but in cuts of its bytes that no library would make.
CUT_CLIENT = """
import os, random, socket, sys
from websockets.client import ClientProtocol
from websockets.uri import parse_uri
from websockets.frames import Opcode
cuts = random.Random(7)
uri = parse_uri(sys.argv[1])
stream = socket.create_connection((uri.host, uri.port), 20)
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
protocol = ClientProtocol(uri, max_size=None)
received = []
def send(longest):
    data = b"".join(protocol.data_to_send())
    while data:
        cut = cuts.randint(1, longest)
        stream.sendall(data[:cut])
        data = data[cut:]
def receive():
    while not received:
        protocol.receive_data(stream.recv(cuts.randint(1, 5000)))
        received.extend(protocol.events_received())
    return received.pop(0)
request = protocol.connect()
protocol.send_request(request)
send(9)
receive()
assert protocol.handshake_exc is None, protocol.handshake_exc
for size, longest in [(0, 1), (1, 1), (125, 3), (126, 2), (300, 1), (65536, 997), (200000, 5000)]:
    message = os.urandom(size)
    protocol.send_binary(message)
    send(longest)
    frame = receive()
    data = frame.data
    while not frame.fin:
        frame = receive()
        data += frame.data
    assert data == message, size
protocol.send_close(1000)
send(1)
assert receive().opcode is Opcode.CLOSE
"""
HANDSHAKE = """
import sys
from websockets.sync.client import connect
from websockets.exceptions import InvalidStatus
try:
    with connect(sys.argv[1], origin=sys.argv[2] or None) as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
        print(101)
except InvalidStatus as refusal:
    print(refusal.response.status_code)
"""

def main():
    stand_ins = StandIns()
    sources = folder("websocket")

    def program(name, text):
        (sources / name).write_text(text)
        return sources / name

    servers = {"websockets": lambda: [need_python("websockets"), program("server.py", PYTHON_SERVER)],
               "ws": lambda: [need_node("ws"), program("server.cjs", NODE_SERVER)]}
    ports = {}
    for name, argv in servers.items():
        with check(f"the server of {name} starts"):
            child = spawn(argv(), stdout=subprocess.PIPE, text=True)
            ports[name] = int(child.stdout.readline())
    routes = "".join(f'[route.{name}]\naccount = "gbdx"\nupstream = "http://127.0.0.1:{port}"\n'
                     for name, port in ports.items())
    valetd = Valetd(stand_ins.config() + routes).start()
    stand_ins.sign_in(valetd)

    def succeeds(argv):
        done = run(argv)
        assert done.returncode == 0, (done.stdout + done.stderr)[-600:]
        return done.stdout.strip()

    clients = {
        "websockets": lambda url: succeeds([need_python("websockets"), program("client.py", PYTHON_CLIENT), url]),
        "ws": lambda url: succeeds([need_node("ws"), program("client.cjs", NODE_CLIENT), url]),
        "websockets in odd cuts": lambda url: succeeds([need_python("websockets"), program("cut.py", CUT_CLIENT), url]),
    }

    def handshake(url, origin=""):
        return succeeds([need_python("websockets"), program("handshake.py", HANDSHAKE), url, origin])

    for server, port in ports.items():
        url = valetd.url(server).replace("http:", "ws:")
        with check(f"{server} server: the twin, asked directly without a token, refuses"):
            same(handshake(f"ws://127.0.0.1:{port}/"), "401")
        for client, perform in clients.items():
            with check(f"{server} server, {client} client: messages of every size come back"):
                perform(url)
        with check(f"{server} server: a handshake refused with 401 is tried again with a new token"):
            before = valetd.account("gbdx")["renewals"]
            same(handshake(url + "once"), "101")
            same(valetd.account("gbdx")["renewals"], before + 1, "the number of renewals")
            # so that the next server's first 401 is news again
            stand_ins.sign_in(valetd)
        with check(f"{server} server: a foreign page's handshake is refused, one of our own is not"):
            same(handshake(url, "http://evil.example"), "403")
            same(handshake(url, valetd.base), "101")
    with check("nothing is left open"):
        eventually("no open requests", lambda: not any(route["open"] for route in valetd.status()["routes"]))

main()
