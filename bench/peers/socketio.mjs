// Socket.IO with connection state recovery: POST /publish to all, POST /publish?user=N to one.
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer((request, response) => {
  const user = new URL(request.url, "http://localhost").searchParams.get("user");
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const message = JSON.parse(Buffer.concat(chunks));
    (user === null ? io : io.to(user)).emit("m", message);
    response.writeHead(202, { "Content-Length": 0 }).end();
  });
});

const io = new Server(http, { transports: ["websocket"], serveClient: false, connectionStateRecovery: {} });
io.on("connection", (socket) => socket.join(socket.handshake.query.user));

http.keepAliveTimeout = 3600_000;
http.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
