"""Amazon Cognito's JSON API as moto implements it, which is GDH's way to renew: InitiateAuth with a refresh token that
stays good, and the raw ID token to the API."""

import base64
import json

from harness import (VALETD, VENV_PYTHON, Handler, Server, Valetd, ask, check, folder, free_port, must, need_python,
                     run, same, spawn, until_listening)

SET_UP = """
import boto3, json, sys
cognito = boto3.client("cognito-idp", endpoint_url=sys.argv[1], region_name="eu-west-1", aws_access_key_id="x",
                       aws_secret_access_key="x")
pool = cognito.create_user_pool(PoolName="geodata")["UserPool"]["Id"]
flows = ["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
client = cognito.create_user_pool_client(UserPoolId=pool, ClientName="cli", ExplicitAuthFlows=flows)
client = client["UserPoolClient"]["ClientId"]
cognito.admin_create_user(UserPoolId=pool, Username="ada", MessageAction="SUPPRESS")
cognito.admin_set_user_password(UserPoolId=pool, Username="ada", Password="Correct-horse-1", Permanent=True)
answer = cognito.initiate_auth(ClientId=client, AuthFlow="USER_PASSWORD_AUTH",
                               AuthParameters={"USERNAME": "ada", "PASSWORD": "Correct-horse-1"})
print(json.dumps({"client": client, "refresh_token": answer["AuthenticationResult"]["RefreshToken"]}))
"""


class Api(Handler):
    """Wants the ID token of its client, raw, as API Gateway's Cognito authorizer does."""

    def do_GET(self):
        claims = self.claims(self.headers.get_all("Authorization") or [])
        good = claims.get("token_use") == "id" and claims.get("aud") == self.server.client
        self.answer(200 if good else 401, json.dumps(claims).encode(), "application/json")

    def claims(self, fields):
        if len(fields) != 1 or fields[0].count(".") != 2 or " " in fields[0]:
            return {}
        part = fields[0].split(".")[1]
        return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def main():
    port = free_port()
    server = VENV_PYTHON.with_name("moto_server")
    child = spawn([need_python("moto"), server, "-H", "127.0.0.1", "-p", port], log=folder("moto") / "log")
    until_listening(port, child)
    place = f"http://127.0.0.1:{port}/"
    made = json.loads(must([need_python("boto3"), "-c", SET_UP, place]))
    api = Server(Api)
    api.client = made["client"]
    valetd = Valetd(f"""
[account.gdh]
provider = "gdh"
cognito_endpoint = "{place}"
token_endpoint = "{place}oauth2/token"
client_id = "{made['client']}"
upstream = "{api.url}"
""").start()
    with check("a refresh token of the user pool signs in"):
        valetd.verb("login", "gdh", "--refresh-token-stdin", input=made["refresh_token"])
        valetd.until("gdh", lambda account: account["usable"])
    with check("the API gets the raw ID token, and only that"):
        status, _, body = ask(valetd.url("gdh", "datasets"), headers={"Authorization": "Bearer wrong"})
        same((status, json.loads(body)["token_use"]), (200, "id"))
        same(len(api.seen[-1][2]), 1, "the number of Authorization fields")
    with check("five renewals with a refresh token that stays the same, each with a new token"):
        tokens = {api.seen[-1][2][0]}
        for _ in range(5):
            before = valetd.account("gdh")["renewals"]
            valetd.verb("refresh", "gdh")
            valetd.until("gdh", lambda account: account["renewals"] > before)
            same(ask(valetd.url("gdh", "datasets"))[0], 200, "the answer")
            tokens.add(api.seen[-1][2][0])
        assert len(tokens) >= 5, f"{len(tokens)} tokens"
        same(valetd.account("gdh")["credential"]["generation"], 1, "the credential's generation")
    with check("the twin: a made-up refresh token meets NotAuthorizedException and needs a person"):
        done = run([VALETD, "login", "gdh", "--refresh-token-stdin", "--untried"], input="made-up", env=valetd.environment())
        assert done.returncode != 0, "it signs in"
        account = valetd.until("gdh", lambda account: account["state"] == "sign-in-required")
        same((account["why_code"], account["last_failure"]["oauth_error"]), ("revoked", "NotAuthorizedException"))
        same(ask(valetd.url("gdh", "datasets"))[0], 503, "the answer")


with check("moto is here, and the topic comes to its end"):
    need_python("moto")
    main()
