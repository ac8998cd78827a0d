"""The ConnectionManager of FastAPI's tutorial, as most services begin: POST /publish to all."""

import sys

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect


class ConnectionManager:
    """Keeps the sockets in a list and sends to one after the other."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        """Accept a socket."""
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        """Forget a socket."""
        self.active_connections.remove(websocket)

    async def broadcast(self, message: object) -> None:
        """Send to all."""
        for connection in self.active_connections:
            await connection.send_json(message)


app = FastAPI()
manager = ConnectionManager()


@app.websocket("/ws")
async def websocket_endpoint(websocket: WebSocket) -> None:
    """Hold a connection until its end."""
    await manager.connect(websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        manager.disconnect(websocket)


@app.post("/publish", status_code=202)
async def publish(request: Request) -> None:
    """Send the body to all."""
    await manager.broadcast(await request.json())


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", timeout_keep_alive=3600)
