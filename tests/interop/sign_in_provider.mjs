// A certified OpenID provider (npm oidc-provider) with login and consent pages of its own, device codes and pushed requests.
// Prints one line of JSON, where it is; answers each line of standard input with what has happened, as JSON.

import http from 'node:http';
import { createRequire } from 'node:module';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

// packages are found by NODE_PATH, which `import` alone does not know
const { Provider } = await import(pathToFileURL(createRequire(import.meta.url).resolve('oidc-provider')).href);

// it has notices for its operators, on the channel that is ours
console.info = console.error;

const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';
const native = {
  application_type: 'native', token_endpoint_auth_method: 'none', response_types: ['code'],
  grant_types: ['authorization_code', 'refresh_token', DEVICE],
};
const loopback = ['http://127.0.0.1/callback', 'http://localhost/callback', 'http://[::1]/callback']; // any port
const clients = [
  { client_id: 'valetd', client_name: 'valetd', redirect_uris: loopback, ...native },
  { client_id: 'no-devices', redirect_uris: loopback, ...native, grant_types: ['authorization_code', 'refresh_token'] },
];

const log = { granted: [], refused: [], pushed: 0, revoked: 0 };
const server = http.createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;
const provider = new Provider(issuer, {
  clients,
  scopes: ['openid', 'offline_access', 'profile', 'email'],
  claims: { openid: ['sub'], email: ['email'], profile: ['preferred_username'] },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: { AccessToken: 30, RefreshToken: 3600, DeviceCode: 300, Grant: 3600, IdToken: 3600, Session: 3600, Interaction: 600 },
  features: {
    devInteractions: { enabled: true }, // takes any name and any password
    deviceFlow: { enabled: true }, pushedAuthorizationRequests: { enabled: true }, revocation: { enabled: true },
  },
  findAccount: (_, id) => ({
    accountId: id, claims: () => ({ sub: id, email: `${id}@lab.example`, preferred_username: id }),
  }),
});
provider.on('grant.success', (ctx) => log.granted.push(ctx.oidc.params.grant_type));
provider.on('grant.error', (ctx, error) => log.refused.push(`${ctx.oidc.params?.grant_type} ${error.error}`));
provider.on('pushed_authorization_request.success', () => { log.pushed++; });
provider.on('grant.revoked', () => { log.revoked++; });
server.on('request', provider.callback());

console.log(JSON.stringify({ issuer }));
for await (const _ of readline.createInterface({ input: process.stdin })) console.log(JSON.stringify(log));
process.exit(0);
