/** The default transport. The token goes as a subprotocol: so it is in no URL, and refusals come as close codes. */
export function websocket(WebSocket) {
    return {
        open({ url, token, query }, sink) {
            const protocols = token ? ['tidings.v1', `bearer.${token}`] : ['tidings.v1'];
            const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/v1/ws?${query}`, protocols);
            socket.onmessage = ({ data }) => sink.frame(data);
            socket.onclose = ({ code, reason }) => sink.closed(code, reason);
            socket.onerror = () => { }; // a close follows
            return {
                send: (text) => socket.send(text),
                close: () => socket.close(),
            };
        },
    };
}
