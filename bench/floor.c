/* The floor: what the kernel alone costs. One `send` of a finished frame to each subscriber, nothing else.
 *
 * Usage: floor PORT. Subscribers upgrade at any path, a POST to /publish goes to all of them, and
 * one to /publish?user=N to the one who came as ?user=N. A subscriber that does not read loses messages.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIMIT 65536 /* file descriptors, and users */
#define BUFFER 65536

/* The answer to the nonce of RFC 6455 section 1.3, which the load generator always sends. */
static const char UPGRADE[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char ACCEPTED[] = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

static int queue, users[LIMIT], subscribers[LIMIT], subscriber_count, place[LIMIT];
static struct {
    char *bytes; /* of a request that is not complete */
    size_t size;
    bool upgraded;
} clients[LIMIT];

static void forget(int fd) {
    if (clients[fd].upgraded) {
        int last = subscribers[--subscriber_count];
        subscribers[place[fd]] = last;
        place[last] = place[fd];
    }
    free(clients[fd].bytes);
    memset(&clients[fd], 0, sizeof clients[fd]);
    close(fd);
}

static int user_of(const char *request) {
    const char *user = strstr(request, "?user=");
    return user && user < strchr(request, '\r') ? atoi(user + 6) % LIMIT : -1;
}

static void subscribe(int fd, const char *request) {
    int user = user_of(request);
    if (user >= 0)
        users[user] = fd;
    clients[fd].upgraded = true;
    place[fd] = subscriber_count;
    subscribers[subscriber_count++] = fd;
    (void)!send(fd, UPGRADE, sizeof UPGRADE - 1, MSG_NOSIGNAL);
}

static void publish(int fd, const char *request, const char *body, size_t size) {
    static char frame[BUFFER + 4];
    size_t head = size < 126 ? 2 : 4;
    frame[0] = (char)0x81;
    frame[1] = head == 2 ? size : 126;
    if (head == 4)
        frame[2] = size >> 8, frame[3] = size & 255;
    memcpy(frame + head, body, size);
    int user = user_of(request);
    if (user >= 0)
        (void)!send(users[user], frame, head + size, MSG_NOSIGNAL);
    for (int i = 0; user < 0 && i < subscriber_count; i++)
        (void)!send(subscribers[i], frame, head + size, MSG_NOSIGNAL);
    (void)!send(fd, ACCEPTED, sizeof ACCEPTED - 1, MSG_NOSIGNAL);
}

/* Serve a request if it is complete; return how many bytes it took. */
static size_t serve(int fd, char *bytes, size_t size) {
    char *body = strstr(bytes, "\r\n\r\n");
    if (!body)
        return 0;
    body += 4;
    if (!strncmp(bytes, "GET ", 4)) {
        subscribe(fd, bytes);
        return size;
    }
    char *field = strcasestr(bytes, "content-length:");
    size_t length = field && field < body ? strtoul(field + 15, NULL, 10) : 0;
    if (bytes + size < body + length)
        return 0;
    publish(fd, bytes, body, length);
    return body + length - bytes;
}

static void on_bytes(int fd) {
    static char buffer[BUFFER + 1];
    size_t kept = clients[fd].size;
    ssize_t got = recv(fd, buffer + kept, BUFFER - kept, MSG_DONTWAIT);
    if (got <= 0) {
        forget(fd);
        return;
    }
    if (clients[fd].upgraded) {
        if ((buffer[kept] & 15) == 8) /* a close frame; pongs need no answer */
            forget(fd);
        return;
    }
    memcpy(buffer, clients[fd].bytes, kept);
    size_t size = kept + got, used = 0, taken;
    buffer[size] = 0;
    while (used < size && (taken = serve(fd, buffer + used, size - used)))
        used += taken;
    clients[fd].size = size - used;
    if (size > used && (clients[fd].bytes = realloc(clients[fd].bytes, size - used)))
        memcpy(clients[fd].bytes, buffer + used, size - used);
}

static void on_connection(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0 || fd >= LIMIT)
        exit(1);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event);
}

static int listen_at(int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (void *)&address, sizeof address) < 0 || listen(listener, 4096) < 0) {
        perror("listen");
        exit(1);
    }
    return listener;
}

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < LIMIT ? limit.rlim_max : LIMIT;
    setrlimit(RLIMIT_NOFILE, &limit);
    int listener = listen_at(argc > 1 ? atoi(argv[1]) : 0);
    queue = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(queue, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(queue, events, 256, -1);
        for (int i = 0; i < count; i++)
            events[i].data.fd == listener ? on_connection(listener) : on_bytes(events[i].data.fd);
    }
}
