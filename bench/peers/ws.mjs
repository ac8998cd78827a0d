// The library ws, bare: POST /publish to all, POST /publish?user=N to one.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const users = new Map();
const userOf = (request) => new URL(request.url, "http://localhost").searchParams.get("user");

const http = createServer((request, response) => {
  const user = userOf(request);
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const message = Buffer.concat(chunks);
    const receivers = user === null ? server.clients : [users.get(user)];
    for (const socket of receivers) socket.send(message, { binary: false });
    response.writeHead(202, { "Content-Length": 0 }).end();
  });
});

const server = new WebSocketServer({ server: http, perMessageDeflate: false });
server.on("connection", (socket, request) => users.set(userOf(request), socket));

http.keepAliveTimeout = 3600_000;
http.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
