// Socket.IO: POST /publish to all, POST /publish?user=N to one. With the URL of a Redis or a PostgreSQL as second
// argument its messages go through that; without, and with Redis, clients may recover their connection's state.
import { createServer } from "node:http";
import { createAdapter as overPostgres } from "@socket.io/postgres-adapter";
import { createAdapter as overRedis } from "@socket.io/redis-streams-adapter";
import { Redis } from "ioredis";
import pg from "pg";
import { Server } from "socket.io";

const EVENT = 2; // the type of an event's packet
const ATTACHMENTS = `create table if not exists socket_io_attachments (
  id bigserial unique, created_at timestamptz default now(), payload bytea)`;

async function adapterOf(url) {
  if (url.startsWith("redis:")) return { adapter: overRedis(new Redis(url)), connectionStateRecovery: {} };
  const pool = new pg.Pool({ connectionString: url });
  await pool.query(ATTACHMENTS); // for messages too long for NOTIFY
  return { adapter: overPostgres(pool) };
}

const http = createServer((request, response) => {
  const user = new URL(request.url, "http://localhost").searchParams.get("user");
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", async () => {
    const message = JSON.parse(Buffer.concat(chunks));
    // What emit() calls, but emit() does not return the promise, which resolves once the store has the message.
    const to = { rooms: new Set(user === null ? [] : [user]), except: new Set(), flags: {} };
    await io.of("/").adapter.broadcast({ type: EVENT, data: ["m", message] }, to);
    response.writeHead(202, { "Content-Length": 0 }).end();
  });
});

const store = process.argv[3] ? await adapterOf(process.argv[3]) : { connectionStateRecovery: {} };
const io = new Server(http, { transports: ["websocket"], serveClient: false, ...store });
io.on("connection", (socket) => socket.join(socket.handshake.query.user));

http.keepAliveTimeout = 3600_000;
http.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
