/* Sockets and clocks, for subscribers and publishers alike. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

ns now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void die(const char *what) {
    perror(what);
    exit(1);
}

void record(histogram *h, ns value) {
    uint64_t v = value < 64 ? 64 : value;
    int power = 63 - __builtin_clzll(v);
    h->counts[power * 64 + ((v >> (power - 6)) & 63)]++;
    h->total++;
    if (value > h->most)
        h->most = value;
}

ns percentile(const histogram *h, double share) {
    uint64_t wanted = share * h->total, seen = 0;
    for (int i = 0; i < 64 * 64; i++)
        if ((seen += h->counts[i]) > wanted)
            return (ns)((64 | (uint64_t)(i & 63)) << (i / 64 - 6));
    return h->most;
}

void watch(source *s, uint32_t events, int how) {
    struct epoll_event e = {.events = events, .data.ptr = s};
    if (epoll_ctl(load.epoll, how, s->fd, &e) < 0)
        die("epoll_ctl");
}

void start_connect(source *s) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(load.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) < 0)
        die("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(s->fd, (void *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        die("connect");
    s->state = CONNECTING;
    s->kept_size = 0;
    watch(s, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
}

void drop(source *s) {
    if (s->kind == SUBSCRIBER) {
        load.connecting -= s->state < READY;
        load.ready_count -= s->state == READY;
        load.failed += s->state < READY;
        load.lost += s->state == READY;
    } else if (s->busy) {
        s->busy = false;
        run.errors++;
        run.answers++;
    }
    close(s->fd);
    s->state = CLOSED;
}

void keep(source *s, const char *from, size_t size) {
    if (size && !(s->kept = realloc(s->kept, size)))
        die("realloc");
    memcpy(s->kept, from, size);
    s->kept_size = size;
}

/* Put what was kept and what has arrived into the buffer; 0 where there is nothing (more). */
size_t receive(source *s) {
    if (s->kept_size >= BUFFER) {
        drop(s);
        return 0;
    }
    ssize_t got = recv(s->fd, buffer + s->kept_size, BUFFER - s->kept_size, 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0) {
        drop(s);
        return 0;
    }
    memcpy(buffer, s->kept, s->kept_size);
    size_t size = s->kept_size + got;
    s->kept_size = 0;
    buffer[size] = 0;
    return size;
}
