"""client.py URL SECONDS THREADS: asks for URL over and over, each time over a connection of its own.

Prints "N answered, M failed" and the first failures; ends with 1 if anything failed."""

import http.client
import sys
import threading
import time
from urllib.parse import urlsplit

url, seconds, threads = urlsplit(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
answered, failures, lock = 0, [], threading.Lock()
end = time.monotonic() + seconds


def ask():
    global answered
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
            connection.request("GET", url.path)
            answer = connection.getresponse()
            body = answer.read()
            failure = None if answer.status == 200 else f"{answer.status} {body[:200]!r}"
        except Exception as error:  # whatever it is, a tool would have seen it
            failure = repr(error)
        finally:
            connection.close()
        with lock:
            if failure is None:
                answered += 1
            else:
                failures.append(failure)


workers = [threading.Thread(target=ask) for _ in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(f"{answered} answered, {len(failures)} failed")
for failure in failures[:3]:
    print("  " + failure)
sys.exit(1 if failures or not answered else 0)
