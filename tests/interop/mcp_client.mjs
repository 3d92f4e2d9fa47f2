// The TypeScript SDK's own client: begins a session, lists the tools, calls one so often, and says what it saw as JSON.
//   node mcp_client.mjs CALLS http URL | CALLS sse URL | CALLS stdio COMMAND ARGUMENT...
// With CALLS `lines`, it stays: each line on standard input is one call, answered with one line.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.NODE_PATH}/`); // import knows no NODE_PATH
const from = (path) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk/${path}`)).href);
const { Client } = await from('client/index.js');
const { StreamableHTTPClientTransport } = await from('client/streamableHttp.js');
const { SSEClientTransport } = await from('client/sse.js');
const { StdioClientTransport } = await from('client/stdio.js');

const [calls, how, ...where] = process.argv.slice(2);
const transports = {
  http: () => new StreamableHTTPClientTransport(new URL(where[0])),
  sse: () => new SSEClientTransport(new URL(where[0])),
  stdio: () => new StdioClientTransport({ command: where[0], args: where.slice(1), env: process.env, stderr: 'inherit' }),
};
const began = performance.now();
const client = new Client({ name: 'interop', version: '1' });
let notifications = 0;
client.fallbackNotificationHandler = async () => { notifications += 1; };
await client.connect(transports[how]());
const ready = performance.now() - began;
const { tools } = await client.listTools();
const names = tools.map((tool) => tool.name);
const call = (at) => (names.includes('greet')
  ? client.callTool({ name: 'greet', arguments: { name: `caller ${at}` } })
  : client.callTool({ name: 'start-notification-stream', arguments: { interval: 10, count: 3 } }));
if (calls === 'lines') {
  console.log(JSON.stringify({ ready }));
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      console.log(JSON.stringify((await call(line)).content[0].text));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error) }));
    }
  }
} else {
  const before = performance.now();
  let text;
  for (let at = 0; at < Number(calls); at += 1) text = (await call(at)).content[0].text;
  const each = (performance.now() - before) / Number(calls);
  console.log(JSON.stringify({ server: client.getServerVersion().name, tools: names, text, notifications, ready, each }));
}
await client.close();
process.exit(0);
