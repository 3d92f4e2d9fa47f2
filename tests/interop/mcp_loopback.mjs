// Loaded before an example server of the MCP SDK, which listens on every interface and at a port of its own choice: makes each
// listener a loopback one, and 3000 the port that PORT names.   node --import ./mcp_loopback.mjs ...
import net from 'node:net';

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function onLoopback(first, ...rest) {
  if (!/^\d+$/.test(String(first))) return listen.call(this, first, ...rest);
  const port = Number(first) === 3000 && process.env.PORT ? Number(process.env.PORT) : Number(first);
  return listen.call(this, { port, host: '127.0.0.1' }, ...rest.filter((one) => typeof one === 'function'));
};
