/* Subscribers: the client's side of RFC 6455, as far as servers that push need it. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MARK "\"t\":"
/* The nonce of RFC 6455 section 1.3, and the answer to it. */
#define NONCE "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

void send_frame(source *s, int opcode, const char *payload, size_t size) {
    static const char key[4] = {0x2f, 0x11, 0x6b, 0x5c};
    char frame[6 + 125] = {(char)(0x80 | opcode), (char)(0x80 | size), key[0], key[1], key[2], key[3]};
    for (size_t i = 0; i < size; i++)
        frame[6 + i] = payload[i] ^ key[i & 3];
    if (send(s->fd, frame, 6 + size, MSG_NOSIGNAL) != (ssize_t)(6 + size))
        drop(s);
}

static bool starts_with(const char *text, size_t size, const char *start) {
    return start && size >= strlen(start) && !memcmp(text, start, strlen(start));
}

static void on_text(source *s, char *text, size_t size) {
    char *mark = memmem(text, size, MARK, sizeof MARK - 1);
    if (mark) {
        ns sent = strtoll(mark + sizeof MARK - 1, NULL, 10);
        if (sent < run.begun) {
            run.stray++;
            return;
        }
        run.deliveries++;
        s->deliveries++;
        s->unconfirmed = true;
        record(&run.latency, now(CLOCK_REALTIME) - sent);
    } else if (s->state == OPEN && load.ready && memmem(text, size, load.ready, strlen(load.ready))) {
        s->state = READY;
        load.ready_count++;
        load.connecting--;
    } else if (load.ping && size == strlen(load.ping) && !memcmp(text, load.ping, size)) {
        send_frame(s, 1, load.pong, strlen(load.pong));
    } else if (s->state == READY && !starts_with(text, size, load.beat)) {
        run.other++;
    }
}

/* Handle the frames that are complete; return how many bytes they took. */
static size_t on_frames(source *s, char *bytes, size_t size) {
    size_t at = 0;
    while (size - at >= 2 && s->state != CLOSED) {
        const uint8_t *head = (uint8_t *)bytes + at;
        size_t extra = (head[1] & 127) == 126 ? 2 : (head[1] & 127) == 127 ? 8 : 0;
        if (size - at < 2 + extra)
            break;
        uint64_t length = extra ? 0 : head[1] & 127;
        for (size_t i = 0; i < extra; i++)
            length = length << 8 | head[2 + i];
        if (length > size - at - 2 - extra)
            break;
        char *payload = bytes + at + 2 + extra;
        at += 2 + extra + length;
        if (head[0] == 0x81)
            on_text(s, payload, length);
        else if (head[0] == 0x89 && length <= 125) {
            s->unconfirmed = false;
            send_frame(s, 10, payload, length);
        } else if (head[0] != 0x8a) /* closing, binary, fragmented: nothing that we asked for */
            drop(s);
    }
    return at;
}

static size_t on_upgrade(source *s, char *bytes) {
    char *end = strstr(bytes, "\r\n\r\n");
    if (!end)
        return 0;
    if (strncmp(bytes, "HTTP/1.1 101", 12) || !memmem(bytes, end - bytes, ACCEPT, sizeof ACCEPT - 1)) {
        snprintf(load.refusal, sizeof load.refusal, "%.*s", (int)strcspn(bytes, "\r\"\\"), bytes);
        drop(s);
        return 0;
    }
    s->state = OPEN;
    if (load.hello)
        send_frame(s, 1, load.hello, strlen(load.hello));
    if (!load.ready) {
        s->state = READY;
        load.ready_count++;
        load.connecting--;
    }
    return end + 4 - bytes;
}

void on_subscriber(source *s, uint32_t events) {
    if (s->state == CONNECTING && events & EPOLLOUT) {
        char head[8192];
        int size = snprintf(head, sizeof head,
                            "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            "Sec-WebSocket-Key: " NONCE "\r\nSec-WebSocket-Version: 13\r\n\r\n",
                            s->path, load.port);
        s->state = UPGRADING;
        watch(s, EPOLLIN, EPOLL_CTL_MOD);
        if (size >= (int)sizeof head || send(s->fd, head, size, MSG_NOSIGNAL) != size)
            drop(s);
        return;
    }
    size_t size = receive(s), at = 0;
    if (!size)
        return;
    if (s->state == UPGRADING)
        at = on_upgrade(s, buffer);
    if (s->state >= OPEN)
        at += on_frames(s, buffer + at, size - at);
    if (s->state != CLOSED)
        keep(s, buffer + at, size - at);
}
