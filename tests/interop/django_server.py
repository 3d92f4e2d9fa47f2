"""`django_server.py FOLDER GRACE`: django-oauth-toolkit with rotation, reuse protection and a grace period of so many
seconds, in which a spent refresh token is answered with the same new pair; and an API that asks it about every token.
Prints one line of JSON when it listens.

`/hold/on` keeps back the answers of the token endpoint once they are made, `/hold/off` no longer; `/log` tells."""

import json
import socketserver
import sys
import threading
import wsgiref.simple_server
from pathlib import Path

import django
from django.conf import settings

FOLDER, GRACE = Path(sys.argv[1]), int(sys.argv[2])
LIFETIME = 8

settings.configure(
    SECRET_KEY="of no value", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "db.sqlite3",
                           "OPTIONS": {"timeout": 20}}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    MIDDLEWARE=[__name__ + ".hold_back"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    OAUTH2_PROVIDER={"ACCESS_TOKEN_EXPIRE_SECONDS": LIFETIME, "ROTATE_REFRESH_TOKEN": True,
                     "REFRESH_TOKEN_REUSE_PROTECTION": True, "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": GRACE,
                     "PKCE_REQUIRED": False},
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402: only after the set-up
from django.core.management import call_command  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.urls import include, path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from oauth2_provider.models import Application  # noqa: E402
from oauth2_provider.oauth2_backends import get_oauthlib_core  # noqa: E402

go_on = threading.Event()
go_on.set()
log = {"answers": [], "held": 0, "refused": 0}


def hold_back(respond):
    def middleware(request):
        response = respond(request)
        if request.path == "/o/token/":
            code = json.loads(response.content).get("error") if response.status_code != 200 else None
            log["answers"].append(code or response.status_code)
            if not go_on.is_set():
                log["held"] += 1
                go_on.wait(20)
        return response

    return middleware


@csrf_exempt
def hello(request):
    good, _ = get_oauthlib_core().verify_request(request, scopes=[])
    if good:
        return HttpResponse("welcome\n")
    log["refused"] += 1
    # the package's own decorator answers 403 here, against RFC 6750 section 3.1
    return HttpResponse(status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def hold(_, switch):
    go_on.clear() if switch == "on" else go_on.set()
    return JsonResponse(log)


urlpatterns = [
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("api/hello", hello),
    path("hold/<switch>", hold),
    path("log", lambda _: JsonResponse(log)),
]


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that was killed


def main():
    call_command("migrate", verbosity=0)
    ada = User.objects.create_user("ada", password="correct horse")
    Application.objects.create(user=ada, name="valetd", client_id="valetd", client_type="public",
                               authorization_grant_type="password", client_secret="")
    application = django.core.handlers.wsgi.WSGIHandler()
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, application, Server, Quiet)
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    server.serve_forever()


import django.core.handlers.wsgi  # noqa: E402

main()
