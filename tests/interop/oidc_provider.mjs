// A certified OpenID provider (npm oidc-provider) with short tokens, rotation and reuse detection, and an API that asks
// it about every token. Prints one line of JSON, where they are; answers each line of standard input with one of JSON:
// `mint CLIENT` (a refresh token, as of somebody who signed in), `log` (what has happened).

import http from 'node:http';
import { createRequire } from 'node:module';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

// packages are found by NODE_PATH, which `import` alone does not know
const { Provider } = await import(pathToFileURL(createRequire(import.meta.url).resolve('oidc-provider')).href);

// it has notices for its operators, on the channel that is ours
console.info = console.error;

const LIFE = 8; // seconds; cut to whole ones, so up to one less
const SECRET = 'a secret: 100%+/&=?'; // what must be encoded in a form and, twice, in Basic (RFC 6749 section 2.3.1)
const person = { grant_types: ['authorization_code', 'refresh_token'], redirect_uris: ['http://127.0.0.1/back'] };
const machine = { grant_types: ['client_credentials'], redirect_uris: [], response_types: [] };
const clients = [
  { client_id: 'public', token_endpoint_auth_method: 'none', ...person },
  { client_id: 'basic', token_endpoint_auth_method: 'client_secret_basic', client_secret: SECRET, ...person },
  { client_id: 'post', token_endpoint_auth_method: 'client_secret_post', client_secret: SECRET, ...person },
  { client_id: 'machine:basic', token_endpoint_auth_method: 'client_secret_basic', client_secret: SECRET, ...machine },
  { client_id: 'machine-post', token_endpoint_auth_method: 'client_secret_post', client_secret: SECRET, ...machine },
];

const log = { issued: {}, errors: [], spent: 0, revoked_grants: 0, api_calls: 0, without_good_token: 0 };
const server = http.createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  clients,
  ttl: { AccessToken: LIFE, ClientCredentials: LIFE, RefreshToken: 3600, Grant: 3600, IdToken: 3600 },
  rotateRefreshToken: true,
  features: {
    clientCredentials: { enabled: true }, revocation: { enabled: true }, devInteractions: { enabled: false },
  },
  findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
});
provider.on('grant.success', (ctx) => {
  const client = ctx.oidc.client.clientId;
  log.issued[client] = (log.issued[client] ?? 0) + 1;
});
provider.on('grant.error', (_, error) => log.errors.push(`${error.error}: ${error.error_detail ?? ''}`));
provider.on('server_error', (_, error) => log.errors.push(String(error.stack)));
provider.on('refresh_token.consumed', () => { log.spent++; });
provider.on('grant.revoked', () => { log.revoked_grants++; });
server.on('request', provider.callback());

const api = http.createServer(async (request, response) => {
  const [scheme, token] = (request.headers.authorization ?? '').split(' ');
  const kinds = [provider.AccessToken, provider.ClientCredentials];
  const found = token ? await Promise.all(kinds.map((kind) => kind.find(token))) : [];
  const good = scheme === 'Bearer' && found.some((one) => one?.isValid);
  log.api_calls++;
  if (!good) log.without_good_token++;
  response.writeHead(good ? 200 : 401, { 'content-type': 'text/plain' });
  response.end(good ? 'welcome\n' : 'who are you?\n');
});
await new Promise((done) => api.listen(0, '127.0.0.1', done));

async function mint(clientId) {
  const client = await provider.Client.find(clientId);
  const grant = new provider.Grant({ accountId: 'ada', clientId });
  grant.addOIDCScope('openid offline_access');
  const grantId = await grant.save();
  const scope = 'openid offline_access';
  const token = new provider.RefreshToken({ client, accountId: 'ada', grantId, scope, gty: 'authorization_code' });
  return token.save();
}

console.log(JSON.stringify({ issuer, api: `http://127.0.0.1:${api.address().port}`, secret: SECRET }));
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ');
  console.log(JSON.stringify(command === 'mint' ? await mint(argument) : log));
}
process.exit(0);
