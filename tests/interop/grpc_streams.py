"""gRPC through the proxy, between a real client and a real server (PyPI grpcio, without generated code): all four kinds
of calls, metadata and trailers both ways, errors, cancellation, deadlines; every call carries the daemon's token, and
no other."""

import json
import subprocess

from harness import (Handler, Server, StandIns, Valetd, ask, bearer_is_good, check, eventually, folder, free_port,
                     need_python, run, same, spawn)

# Writes down every call when it begins and when it ends, and refuses those without a token.
SERVER = """
import concurrent.futures, json, sys, threading
import grpc

log, lock, barriers = open(sys.argv[1], "a"), threading.Lock(), {}

def note(**what):
    with lock:
        log.write(json.dumps(what) + "\\n")
        log.flush()

def begin(context, method):
    metadata = [(key, value) for key, value in context.invocation_metadata()]
    found = dict(metadata)
    tag = found.get("x-tag")
    authorization = [value for key, value in metadata if key == "authorization"]
    over = threading.Event()
    note(began=method, tag=tag, authorization=authorization, peer=context.peer(), left=context.time_remaining())
    def end():
        note(ended=method, tag=tag)
        over.set()
    assert context.add_callback(end)
    if not authorization or not authorization[0].lower().startswith("bearer eyj"):
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
    # what was sent comes back twice: before the messages and after them
    context.send_initial_metadata([("x-first", found.get("x-text", "-")), ("x-first-bin", found.get("x-raw-bin", b""))])
    context.set_trailing_metadata([("x-last", found.get("x-text", "-")), ("x-last-bin", found.get("x-raw-bin", b""))])
    return found, over

def unary(request, context):
    begin(context, "unary")
    return request

def many(request, context):
    begin(context, "many")
    for number in range(int(request)):
        yield b"%d" % number

def collect(requests, context):
    begin(context, "collect")
    pieces = list(requests)
    return b"%d %d" % (len(pieces), sum(map(len, pieces)))

def chat(requests, context):
    begin(context, "chat")
    number = 0
    for request in requests:
        number += 1
        yield request[::-1]
    yield b"%d in all" % number  # after the client has said that it has said everything

def early(requests, context):
    begin(context, "early")
    next(requests)
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

def enough(requests, context):
    begin(context, "enough")
    return next(requests)

def fail(request, context):
    # nothing before it: the answer's head is its trailers
    note(began="fail", tag=None, peer=context.peer(), left=context.time_remaining(),
         authorization=[value for key, value in context.invocation_metadata() if key == "authorization"])
    context.set_trailing_metadata([("grpc-status-details-bin", bytes(range(256))), ("x-why", "because")])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())

def fail_later(request, context):
    begin(context, "fail_later")
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, request.decode())

def hang(request, context):
    _, over = begin(context, "hang")
    over.wait(60)
    return b""

def hang_many(request, context):
    _, over = begin(context, "hang_many")
    yield b"first"
    over.wait(60)

def hang_chat(requests, context):
    begin(context, "hang_chat")
    for request in requests:  # ends with the call: how, when it is cancelled, is a race inside grpcio, directly too
        yield request

def together(request, context):
    begin(context, "together")
    number = int(request)
    with lock:
        barrier = barriers.setdefault(number, threading.Barrier(number))
    barrier.wait(30)  # none is answered before all are here
    return request

one_one, one_many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
many_one, many_many = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
methods = {"Unary": one_one(unary), "Many": one_many(many), "Collect": many_one(collect), "Chat": many_many(chat),
           "Early": many_many(early), "Enough": many_one(enough), "Fail": one_one(fail),
           "FailLater": one_many(fail_later), "Hang": one_one(hang), "HangMany": one_many(hang_many),
           "HangChat": many_many(hang_chat), "Together": one_one(together)}
server = grpc.server(concurrent.futures.ThreadPoolExecutor(300),
                     options=[("grpc.max_receive_message_length", 1 << 24), ("grpc.so_reuseport", 0)])
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("interop.Api", methods)])
port = server.add_insecure_port(f"127.0.0.1:{sys.argv[2]}")
server.start()
print(port, flush=True)
server.wait_for_termination()
"""

# Performs one of its functions: client.py TARGET AUTHORITY FUNCTION [ARGUMENT]. All of a function's calls are on one
# channel, that is, on one connection.
CLIENT = """
import json, os, sys, threading, time
import grpc

target, authority, function, *arguments = sys.argv[1:]
options = [("grpc.max_receive_message_length", 1 << 24), ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
if authority:
    options.append(("grpc.default_authority", authority))
channel = grpc.insecure_channel(target, options)
kinds = {"Many": channel.unary_stream, "FailLater": channel.unary_stream, "HangMany": channel.unary_stream,
         "Collect": channel.stream_unary, "Enough": channel.stream_unary, "Chat": channel.stream_stream,
         "Early": channel.stream_stream, "HangChat": channel.stream_stream}
RAW = bytes(range(256))
BOTH = [("x-text", "some text"), ("x-raw-bin", RAW)]
OK = grpc.StatusCode.OK

def method(name):
    return kinds.get(name, channel.unary_unary)("/interop.Api/" + name)

def same(found, expected):
    assert found == expected, f"{str(found)[:300]}, not {str(expected)[:300]}"

def echoed(call):
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    same((first["x-first"], first["x-first-bin"]), ("some text", RAW))
    same((last["x-last"], last["x-last-bin"]), ("some text", RAW))
    same(call.code(), OK)

def refused(begin):
    try:
        begin()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it was not refused")

def unary():
    for message in (b"", b"x", b"hello" * 1000):
        answer, call = method("Unary").with_call(message, metadata=BOTH, timeout=20)
        same(answer, message)
        echoed(call)
    answer = method("Unary")(b"a" * 100_000, compression=grpc.Compression.Gzip, timeout=20)
    same(answer, b"a" * 100_000)

def many():
    for number in (0, 1, 1000):
        call = method("Many")(b"%d" % number, metadata=BOTH, timeout=20)
        same(list(call), [b"%d" % n for n in range(number)])
        echoed(call)

def collect():
    for pieces in ([], [b""], [b"piece"] * 1000, [b"p" * 100_000] * 30):
        answer, call = method("Collect").with_call(iter(pieces), metadata=BOTH, timeout=20)
        same(answer, b"%d %d" % (len(pieces), sum(map(len, pieces))))
        echoed(call)

def chat():
    turn = threading.Semaphore(1)
    def requests():
        for n in range(200):  # the next is said when the answer to this one is here
            assert turn.acquire(timeout=20)
            yield b"say %d" % n
        assert turn.acquire(timeout=20)
    call = method("Chat")(requests(), metadata=BOTH, timeout=20)
    for n in range(200):
        same(next(call), (b"say %d" % n)[::-1])
        turn.release()
    same(list(call), [b"200 in all"])
    echoed(call)

def endless(stop):
    while not stop.wait(0.001):
        yield b"more" * 1000

def early():
    stop = threading.Event()
    call = method("Early")(endless(stop), timeout=20)
    error = refused(lambda: list(call))
    same((error.code(), error.details()), (grpc.StatusCode.RESOURCE_EXHAUSTED, "enough"))
    answer, call = method("Enough").with_call(endless(stop), metadata=BOTH, timeout=20)
    same(answer, b"more" * 1000)
    echoed(call)
    stop.set()

def fail():
    details = "no: 100 % \\u00e5\\u4e16\\n" + "x" * 500
    error = refused(lambda: method("Fail")(details.encode(), timeout=20))
    same((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, details))
    trailers = dict(error.trailing_metadata())
    same((trailers["grpc-status-details-bin"], trailers["x-why"]), (RAW, "because"))
    call = method("FailLater")(details.encode(), metadata=BOTH, timeout=20)
    same([next(call), next(call)], [b"one", b"two"])
    error = refused(lambda: next(call))
    same((error.code(), error.details()), (grpc.StatusCode.DATA_LOSS, details))
    same(dict(error.trailing_metadata())["x-last"], "some text")
    error = refused(lambda: channel.unary_unary("/interop.Api/Nothing")(b"", timeout=20))
    same(error.code(), grpc.StatusCode.UNIMPLEMENTED)

def cancel(tag):
    # stays until it is told to go: what ends the calls is not the end of their connection
    tags = [("x-tag", tag)]
    waiting, stop = [], threading.Event()
    waiting.append(method("Hang").future(b"", metadata=tags, timeout=60))
    waiting.append(method("HangMany")(b"", metadata=tags, timeout=60))
    same(next(waiting[-1]), b"first")
    waiting.append(method("HangChat")(endless(stop), metadata=tags, timeout=60))
    same(next(waiting[-1]), b"more" * 1000)
    print("waiting", flush=True)
    sys.stdin.readline()
    for call in waiting:
        call.cancel()
        same(call.code(), grpc.StatusCode.CANCELLED)
    stop.set()
    print("cancelled", flush=True)
    sys.stdin.readline()
    same(method("Unary")(b"on", timeout=20), b"on")

def deadline(tag):
    began = time.monotonic()
    for begin in (lambda: method("Hang")(b"", metadata=[("x-tag", tag)], timeout=1),
                  lambda: list(method("HangMany")(b"", metadata=[("x-tag", tag)], timeout=1))):
        same(refused(begin).code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    assert time.monotonic() - began < 15, "it took too long"
    same(method("Unary")(b"on", timeout=20), b"on")

def large():
    message = os.urandom(4 << 20)
    same(method("Unary")(message, timeout=60), message)
    call = method("Chat")(iter([message] * 4), timeout=60)
    same([answer == message[::-1] for answer in call], [True] * 4 + [False])

def together(number):
    calls = [method("Together").future(number.encode(), timeout=40) for _ in range(int(number))]
    same({call.result() for call in calls}, {number.encode()})

def own_tokens(tag):
    for own in (["Bearer eyJ.the.clients"], ["bearer eyJ.of its own"], ["Bearer eyJ.one", "Bearer eyJ.two"]):
        metadata = [("x-tag", tag), *(("authorization", value) for value in own)]
        same(method("Unary")(b"x", metadata=metadata, timeout=20), b"x")
        same(list(method("Many")(b"3", metadata=metadata, timeout=20)), [b"0", b"1", b"2"])
        same(method("Collect")(iter([b"x"]), metadata=metadata, timeout=20), b"1 1")
        same(list(method("Chat")(iter([b"xy"]), metadata=metadata, timeout=20)), [b"yx", b"1 in all"])

def code(wanted):
    began = time.monotonic()
    same(refused(lambda: method("Unary")(b"x", timeout=20)).code().name, wanted)
    assert time.monotonic() - began < 15, "it took too long"

def restart():
    same(method("Unary")(b"x", timeout=20), b"x")
    print("before", flush=True)
    sys.stdin.readline()
    same(method("Unary")(b"y", timeout=20), b"y")

globals()[function](*arguments)
channel.close()
"""


class Mirror(Handler):
    """Another route of the account: what it sees is the daemon's token."""

    def do_GET(self):
        self.answer(200)


class Api:
    """The server, and what it wrote down."""

    def __init__(self, python, port=0):
        self.log = folder("grpc") / "calls"
        self.log.touch()
        self.python = python
        self.port = None
        self.start(port)

    def start(self, port):
        self.child = spawn([self.python, "-c", SERVER, self.log, port], stdout=subprocess.PIPE, text=True)
        self.port = int(self.child.stdout.readline())

    def end(self):
        self.child.kill()
        self.child.wait()

    def lines(self, tag=None):
        found = [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in found if tag is None or line["tag"] == tag]


def main():
    python = need_python("grpc")
    stand_ins = StandIns()
    api = Api(python)
    mirror = Server(Mirror)
    own_port, dead_port = free_port(), free_port()
    upstream = f'account = "gbdx"\nupstream = "http://127.0.0.1:{api.port}"\n'
    valetd = Valetd(stand_ins.config() + f"""
[route.api]
{upstream}http2 = true
[route.own]
{upstream}http2 = true
listen = "127.0.0.1:{own_port}"
[route.one]
{upstream}
[route.dead]
account = "gbdx"
upstream = "http://127.0.0.1:{dead_port}"
http2 = true
[route.mirror]
account = "gbdx"
upstream = "{mirror.url}"
""").start()
    stand_ins.sign_in(valetd)

    def daemons_token():
        same(ask(valetd.url("mirror"))[0], 200)
        return mirror.seen[-1][2]

    def words(where, *more):
        target, authority = where
        return [python, "-c", CLIENT, target, authority, *more]

    def client(where, *more):
        done = run(words(where, *more), timeout=60)
        assert done.returncode == 0, f"{more}: {done.stderr.strip()[-600:]}"
        return done.stdout

    def begin(where, *more):
        return spawn(words(where, *more), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def go_on(child):
        child.stdin.write("\n")
        child.stdin.flush()

    common = f"127.0.0.1:{valetd.port}"
    direct = (f"127.0.0.1:{api.port}", "")

    with check("the twin, asked directly without a token, refuses; with two, it sees two"):
        client(direct, "code", "UNAUTHENTICATED")
        client(direct, "own_tokens", "twin")
        seen = [line["authorization"] for line in api.lines("twin") if "began" in line]
        assert ["Bearer eyJ.one", "Bearer eyJ.two"] in seen, seen

    before = len(api.lines())
    places = {"by name": (common, f"api.localhost:{valetd.port}"), "at its own address": (f"127.0.0.1:{own_port}", "")}
    for place, where in places.items():
        with check(f"{place}: unary calls, with metadata and trailers"):
            client(where, "unary")
        with check(f"{place}: a stream of answers"):
            client(where, "many")
        with check(f"{place}: a stream of requests"):
            client(where, "collect")
        with check(f"{place}: both, one message at a time, and one after the client's last"):
            client(where, "chat")
        with check(f"{place}: an answer before the requests end"):
            client(where, "early")
        with check(f"{place}: errors at once and after messages, with their details"):
            client(where, "fail")
        with check(f"{place}: cancelled calls end at the server, and the connection goes on"):
            tag = f"cancel {place}"
            child = begin(where, "cancel", tag)
            same(child.stdout.readline(), "waiting\n")
            same([line for line in api.lines(tag) if "ended" in line], [], "what has ended before")
            go_on(child)
            same(child.stdout.readline(), "cancelled\n")
            eventually("all three end", lambda: len([line for line in api.lines(tag) if "ended" in line]) == 3, 10)
            go_on(child)
            same(child.wait(30), 0, "the client's status")
        with check(f"{place}: deadlines reach the server, and end the call on both sides"):
            tag = f"deadline {place}"
            client(where, "deadline", tag)
            eventually("both end", lambda: len([line for line in api.lines(tag) if "ended" in line]) == 2, 10)
            left = [line["left"] for line in api.lines(tag) if "began" in line]
            assert len(left) == 2 and all(0 <= seconds < 1.5 for seconds in left), left
        with check(f"{place}: messages of 4 MiB both ways"):
            client(where, "large")
        with check(f"{place}: 100 calls at once on one channel"):
            client(where, "together", "100")
        with check(f"{place}: 150 calls at once, more than go on one connection upstream"):
            client(where, "together", "150")
        with check(f"{place}: the client's own tokens never reach the server"):
            tag = f"own {place}"
            client(where, "own_tokens", tag)
            seen = [line["authorization"] for line in api.lines(tag) if "began" in line]
            same(seen, [daemons_token()] * 12, "what the server saw")

    with check("every call had one authorization, the daemon's token"):
        token = daemons_token()
        assert bearer_is_good(token), token
        calls = [line for line in api.lines()[before:] if "began" in line]
        assert len(calls) > 500, len(calls)
        same([call for call in calls if call["authorization"] != token], [], "calls with another")
        print(f"     {len(calls)} calls on {len({call['peer'] for call in calls})} connections")

    with check("what never gets to the server is a code that fits, soon"):
        for name, code in (("dead.localhost", "UNAVAILABLE"), ("one.localhost", "UNAVAILABLE"),
                           ("nobody.localhost", "UNIMPLEMENTED"), ("api.example", "PERMISSION_DENIED")):
            client((common, f"{name}:{valetd.port}"), "code", code)

    with check("the server is killed and started again between two calls, and the client does not notice"):
        child = begin(places["by name"], "restart")
        same(child.stdout.readline(), "before\n")
        api.end()
        api.start(api.port)
        go_on(child)
        same(child.wait(30), 0, "the client's status")

    with check("nothing is left open"):
        eventually("no open requests", lambda: not any(route["open"] for route in valetd.status()["routes"]), 10)


with check("grpcio is here, and the topic comes to its end"):
    main()
