"""`sign_in_django_server.py FOLDER`: django-oauth-toolkit as an OpenID provider, with Django's own login page and the toolkit's
consent page. Prints one line of JSON when it listens."""

import json
import socketserver
import subprocess
import sys
import wsgiref.simple_server
from pathlib import Path

import django
from django.conf import settings

FOLDER = Path(sys.argv[1])
# for ID tokens; `openssl` makes it, as nothing else here has one
KEY = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, check=True, text=True).stdout
LOGIN = "<form method=post>{% csrf_token %}{{ form }}<input type=submit value='Log in'></form>"

settings.configure(
    SECRET_KEY="of no value", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, USE_TZ=True, LOGIN_URL="/login",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "db.sqlite3",
                           "OPTIONS": {"timeout": 20}}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
                    "django.contrib.messages", "oauth2_provider"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "django.contrib.messages.middleware.MessageMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {
        "context_processors": ["django.template.context_processors.request",
                               "django.contrib.auth.context_processors.auth",
                               "django.contrib.messages.context_processors.messages"],
        "loaders": [("django.template.loaders.locmem.Loader", {"registration/login.html": LOGIN}),
                    "django.template.loaders.app_directories.Loader"]}}],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    OAUTH2_PROVIDER={"OIDC_ENABLED": True, "OIDC_RSA_PRIVATE_KEY": KEY, "ACCESS_TOKEN_EXPIRE_SECONDS": 60,
                     "ROTATE_REFRESH_TOKEN": True, "PKCE_REQUIRED": True, "REQUEST_APPROVAL_PROMPT": "force",
                     "ALLOWED_REDIRECT_URI_SCHEMES": ["http"],
                     "SCOPES": {"openid": "who you are", "offline_access": "for long"}},
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402: only after the set-up
from django.contrib.auth.views import LoginView  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.urls import include, path  # noqa: E402
from oauth2_provider.models import Application  # noqa: E402

urlpatterns = [
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("login", LoginView.as_view()),
]


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


call_command("migrate", verbosity=0)
ada = User.objects.create_user("ada", password="correct horse")
Application.objects.create(
    user=ada, name="valetd", client_id="valetd", client_type="public", client_secret="", algorithm="RS256",
    authorization_grant_type="authorization-code", redirect_uris="http://127.0.0.1/callback")
server = wsgiref.simple_server.make_server("127.0.0.1", 0, WSGIHandler(), Server, Quiet)
print(json.dumps({"issuer": f"http://127.0.0.1:{server.server_port}/o"}), flush=True)
server.serve_forever()
