"""`valetd exec --intercept` for the clients of providers, at the providers' own hosts: the calls that gbdxtools makes (by
requests and requests_oauthlib, as it does), and the packages of Sentinel Hub, Planet and openEO, each with the sign-in
that it insists on."""

import base64
import json
import time

from harness import SDK_PYTHON, VALETD, Handler, StandIns, Valetd, bearer_is_good, check, folder, need_python, run, same
from network import Network

GBDX_HOSTS = ("geobigdata.io", "vector.geobigdata.io", "rda.geobigdata.io", "idaho.geobigdata.io")
SENTINEL, PLANET, OPENEO = "services.sentinel-hub.com", "api.planet.com", "openeo.dataspace.copernicus.eu"

# As gbdxtools 0.17.1 and gbdx-auth 0.4.0 make them; {sign_in} makes the session.
GBDX = """
import json, os
from oauthlib.oauth2 import LegacyApplicationClient
from requests_oauthlib import OAuth2Session
API, VECTOR, RDA = "https://geobigdata.io", "https://vector.geobigdata.io", "https://rda.geobigdata.io"
{sign_in}
def of(answer):
    answer.raise_for_status()
    return answer.json()
assert of(session.get(API + "/catalog/v2/record/1040010019B4A600?includeRelationships=false"))["properties"]["catalogID"]
assert of(session.post(API + "/catalog/v2/search", json={{"searchAreaWkt": "POLYGON((30 9, 31 9, 31 10, 30 9))",
    "filters": ["cloudCover < 90"], "types": ["Acquisition"]}}))["stats"]["recordsReturned"] == 1
assert "AOP_Strip_Processor" in of(session.get(API + "/workflows/v1/tasks"))["tasks"]
launched = of(session.post(API + "/workflows/v1/workflows", json={{"name": "w", "tasks": []}}))["id"]
assert of(session.get(f"{{API}}/workflows/v1/workflows/{{launched}}"))["state"]["event"] == "succeeded"
ordered = of(session.post(API + "/orders/v2/order/", json=["10400100120FEA00"]))["order_id"]
assert of(session.get(f"{{API}}/orders/v2/order/{{ordered}}"))["acquisitions"][0]["location"].startswith("s3://")
assert of(session.get(API + "/s3creds/v1/prefix?duration=3600"))["bucket"] == "gbd-customer-data"
assert len(of(session.post(VECTOR + "/insight-vector/api/index/query/vector-gbdx-alpha-catalog-v2-*/items"
    "?q=item_type%3AWV02&count=100", data="{{}}"))) == 1
assert of(session.get(RDA + "/v1/template/DigitalGlobeStrip/metadata?bandType=MS"))["imageMetadata"]["tileXSize"] == 256
print("served gbdx")
"""
WITH_TOKEN = 'session = OAuth2Session(token={"access_token": os.environ["GBDX_ACCESS_TOKEN"], "token_type": "Bearer"})'
WITH_PASSWORD = """
session = OAuth2Session(client=LegacyApplicationClient("x"))
session.fetch_token(API + "/auth/v1/oauth/token/", username=os.environ["GBDX_USERNAME"],
                    password=os.environ["GBDX_PASSWORD"], auth=("x", "x"))
"""
SENTINELHUB = """
from sentinelhub import BBox, CRS, SentinelHubCatalog, SHConfig
catalog = SentinelHubCatalog(config=SHConfig())
found = list(catalog.search("sentinel-2-l2a", bbox=BBox((9, 55, 10, 56), crs=CRS.WGS84), time=("2026-01-01", "2026-01-02")))
print(found[0]["id"])
"""
PLANET_CLIENT = """
import asyncio, os
from planet import Auth, Session
async def main():
    async with Session(auth=Auth.from_key(os.environ["PL_API_KEY"])) as session:
        print((await session.client("data").get_item("PSScene", "x"))["id"])
asyncio.run(main())
"""
OPENEO_CLIENT = f"""
import openeo
connection = openeo.connect("https://{OPENEO}")
assert connection.list_collection_ids() == ["SENTINEL2_L2A"]
print(connection.describe_account()["user_id"])
"""


class Api(Handler):
    """Answers by path, to a good token alone; `PUBLIC` to all."""

    ANSWERS, PUBLIC, BEARER = {}, {}, "Bearer "

    def do_GET(self):
        body = b"".join(self.body()).decode()
        path = self.path.partition("?")[0].rstrip("/") or "/"
        fields = [field.replace(self.BEARER, "Bearer ") for field in self.headers.get_all("Authorization") or []]
        for answers, is_open in ((self.PUBLIC, True), (self.ANSWERS, bearer_is_good(fields))):
            if path in answers:
                found = answers[path](body) if callable(answers[path]) else answers[path]
                return self.answer(200 if is_open and found else 401, json.dumps(found).encode(), "application/json")
        self.answer(404, self.path.encode())

    do_POST = do_GET


def token(_=None):
    """A JWT, as far as an API that checks nothing but the claims is concerned."""
    claims = {"token_use": "access", "exp": int(time.time()) + 3600}
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "x"}, claims))
    return ".".join(parts) + ".c2ln"


class SentinelHub(Api):
    SECRET = "the-clients-own-secret"
    PUBLIC = {"/auth/realms/main/protocol/openid-connect/token":
              lambda body: SentinelHub.SECRET in body and {"access_token": token(), "token_type": "Bearer", "expires_in": 3600}}
    ANSWERS = {path: {"features": [{"id": "served sentinelhub"}], "context": {"limit": 100}}
               for path in ("/catalog/v1/search", "/api/v1/catalog/1.0.0/search")}


class Planet(Api):
    ANSWERS = {"/data/v1/item-types/PSScene/items/x": {"id": "served planet", "type": "Feature"}}


class OpenEo(Api):
    BEARER = "Bearer oidc/CDSE/"
    ENDPOINTS = [{"path": path, "methods": ["GET"]} for path in ("/collections", "/me", "/credentials/oidc")]
    PUBLIC = {
        "/": {"api_version": "1.1.0", "backend_version": "1", "stac_version": "1.0.0", "id": "x", "title": "x",
              "description": "x", "endpoints": ENDPOINTS, "links": []},
        "/.well-known/openeo": {"versions": [{"url": f"https://{OPENEO}", "api_version": "1.1.0", "production": True}]},
    }
    ANSWERS = {"/collections": {"collections": [{"id": "SENTINEL2_L2A"}], "links": []},
               "/me": {"user_id": "served openeo"}}


def main():
    stand_ins = StandIns()
    gbdx = stand_ins.places["gbdx"]
    network = Network(*GBDX_HOSTS, SENTINEL, PLANET, OPENEO)
    for name in GBDX_HOSTS:
        network.relay(name, int(gbdx["url"].rpartition(":")[2]))
    sites = {name: network.site(name, handler) for name, handler in
             ((SENTINEL, SentinelHub), (PLANET, Planet), (OPENEO, OpenEo))}
    ca = f'extra_ca = "{network.authority}"'
    own = f'token_endpoint = "{gbdx["token_endpoint"]}"\nclient_auth = "none"\n{ca}'
    # the first two as their presets have them, hosts and all
    valetd = Valetd(f"""
[account.gbdx]
provider = "gbdx"
{ca}
[account.sentinelhub]
provider = "sentinelhub"
client_id = "the-clients-own-id"
client_secret = "{SentinelHub.SECRET}"
{ca}
[account.planet]
{own}
exec = {{ env = {{ PL_API_KEY = "x" }} }}
upstream = "https://{PLANET}"
[account.openeo]
header = "Authorization: Bearer oidc/CDSE/{{access_token}}"
upstream = "https://{OPENEO}"
{own}
""", variables={"https_proxy": network.url}).start()
    refresh_tokens = []
    with check("the accounts sign in at the providers' own hosts, behind a company's proxy"):
        valetd.verb("login", "gbdx", "--username", stand_ins.places["username"], "--password-stdin",
                    input=stand_ins.places["password"])
        for name in ("planet", "openeo"):
            refresh_tokens.append(stand_ins.say("sign-in")["gbdx"])
            valetd.verb("login", name, "--refresh-token-stdin", input=refresh_tokens[-1])
        for name in ("gbdx", "sentinelhub", "planet", "openeo"):
            valetd.until(name, lambda account: account["usable"])

    def served(account, package, text, options=("--intercept",), **theirs):
        """Whether a client is served, and has seen no secret."""
        python = need_python(package, python=SDK_PYTHON)
        seen = [SentinelHub.SECRET, stand_ins.places["password"], *refresh_tokens]
        seen += [field.split("/")[-1].removeprefix("Bearer ") for site in sites.values() for _, _, fields in site.seen
                 for field in fields]
        keep = ["sh", "-c", 'env > environment; exec "$@"', "sh", python, "-c", text]
        work = folder(f"work-{account}-{time.monotonic_ns()}")
        done = run([VALETD, "exec", "--account", account, *options, "--", *keep], cwd=work, env=valetd.environment(**theirs))
        said = done.stdout + done.stderr
        assert done.returncode == 0 and f"served {account}" in said, said[-1500:]
        held = (work / "environment").read_text() + said
        assert not any(secret in held for secret in [*seen, *theirs.values()]), "a secret is in the client's hands"

    issued = stand_ins.say("log")["gbdx"]["issued"]
    for name, sign_in in (("a token", WITH_TOKEN), ("a user name and a password", WITH_PASSWORD)):
        with check(f"gbdxtools' calls are served, which sign in with {name} from the environment"):
            # by the preset alone; what was in the environment is real, and must not be seen
            served("gbdx", "requests_oauthlib", GBDX.format(sign_in=sign_in), (), GBDX_PASSWORD="a-real-password")
    with check("no call of gbdxtools' has reached the API without a good token, and the token service was not asked"):
        log = stand_ins.say("log")["gbdx"]
        same(log["without_good_token"], [], "calls without a token")
        assert log["api_calls"] >= 20, log
        same(log["issued"], issued, "tokens that the token service has issued")
    with check("the package of Sentinel Hub is served, which asks for a token by client credentials"):
        served("sentinelhub", "sentinelhub", SENTINELHUB, SH_CLIENT_SECRET="a-real-secret")
    with check("the package of Planet is served, which wants an API key"):
        served("planet", "planet", PLANET_CLIENT, PL_API_KEY="a-real-api-key")
    with check("the package of openEO is served, whose tokens have a prefix"):
        served("openeo", "openeo", OPENEO_CLIENT)
    with check("the twin: without exec, a client with placeholders is refused"):
        done = run([need_python("planet", python=SDK_PYTHON), "-c", PLANET_CLIENT],
                   env=valetd.environment(PL_API_KEY="x", SSL_CERT_FILE=network.authority))
        assert done.returncode != 0 and "served" not in done.stdout, done.stdout


main()
