// An API in Node's own HTTP server: what upstreams.py asks of each server. Prints its URL; `/tick` sends an event to
// everybody who listens at /events.

import { createHash } from 'node:crypto';
import http from 'node:http';
import zlib from 'node:zlib';

const listeners = new Set();
let connections = 0;

const server = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://localhost');
  if (pathname === '/tick') {
    const waiting = listeners.size;
    for (const listener of listeners) listener.write(`data: ${searchParams.get('n')}\n\n`);
    return response.end(String(waiting));
  }
  response.setHeader('x-connection', request.socket.number);
  const authorization = request.headers.authorization ?? '';
  if (!authorization.startsWith('Bearer eyJ')) return response.writeHead(401).end();
  switch (pathname) {
    case '/hello': return response.setHeader('content-length', 6).end('hello\n');
    case '/nothing': return response.writeHead(204).end();
    case '/chunked':
      response.setHeader('trailer', 'x-after');
      for (let n = 0; n < 1000; n++) response.write(`${n}\n`);
      response.addTrailers({ 'x-after': 'all' });
      return response.end();
    case '/gzip':
      response.setHeader('content-encoding', 'gzip');
      return response.end(zlib.gzipSync('a'.repeat(100_000)));
    case '/moved':
      return response.writeHead(302, { location: `http://${request.headers.host}/hello?moved=1` }).end();
    case '/elsewhere': return response.writeHead(302, { location: 'http://elsewhere.example/hello' }).end();
    case '/big': {
      const length = Number(searchParams.get('length'));
      response.setHeader('content-length', length);
      if (request.method === 'HEAD') return response.end();
      const block = Buffer.alloc(1 << 20, 'valetd ');
      let left = length;
      const more = () => {
        while (left > 0) {
          const piece = block.subarray(0, Math.min(left, block.length));
          left -= piece.length;
          if (!response.write(piece)) return response.once('drain', more);
        }
        response.end();
      };
      return more();
    }
    case '/upload': {
      const hash = createHash('sha256');
      request.on('data', (piece) => hash.update(piece)).on('end', () => response.end(hash.digest('hex')));
      return;
    }
    case '/events':
      response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
      listeners.add(response);
      return response.on('close', () => listeners.delete(response));
    default: return response.writeHead(404).end();
  }
});
server.on('connection', (socket) => { socket.number = ++connections; });
let continued = 0;
server.on('checkContinue', (request, response) => {
  continued++;
  response.setHeader('x-continued', continued);
  response.writeContinue();
  server.emit('request', request, response);
});
server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
