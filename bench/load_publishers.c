/* Publishers: HTTP/1.1 connections that are kept, with one request under way on each. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

char *read_file(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file)
        die(path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    char *text = calloc(1, size + 1);
    rewind(file);
    if (fread(text, 1, size, file) != (size_t)size)
        die(path);
    fclose(file);
    return text;
}

void read_request(const char *path) {
    free(load.request_path);
    load.request_path = read_file(path);
    char *headers = strchr(load.request_path, '\n');
    char *body = headers ? strstr(headers, "\n\n") : NULL;
    if (!body)
        die("a request has a path, headers, an empty line, and a body");
    *headers++ = *body++ = 0;
    free(load.request_headers);
    load.request_headers = calloc(2, strlen(headers) + 64);
    char *to = load.request_headers;
    for (char *line = strtok(headers, "\n"); line; line = strtok(NULL, "\n"))
        to += sprintf(to, "%s\r\n", line);
    load.request_body = body + 1;
}

/* Copy a template with its marks replaced, each @U@ by a user drawn anew. */
static size_t fill(char *to, const char *from, ns time) {
    char *start = to;
    while (*from) {
        if (!strncmp(from, "@T@", 3))
            to += sprintf(to, "%019lld", (long long)time), from += 3;
        else if (!strncmp(from, "@U@", 3))
            to += sprintf(to, "%ld", random() % load.subscriber_count), from += 3;
        else
            *to++ = *from++;
    }
    *to = 0;
    return to - start;
}

/* Send what can be sent; `waited` tells that the rest of a request had to wait for the socket. */
static void flush_request(source *p, bool waited) {
    ssize_t sent = send(p->fd, p->out + p->out_sent, p->out_size - p->out_sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        drop(p);
        return;
    }
    p->out_sent += sent > 0 ? sent : 0;
    bool waits = p->out_sent < p->out_size;
    if (waits != waited)
        watch(p, EPOLLIN | (waits ? EPOLLOUT : 0), EPOLL_CTL_MOD);
}

void post(source *p, ns time) {
    static char path[4096], body[BUFFER];
    fill(path, load.request_path, time);
    size_t size = fill(body, load.request_body, time);
    int head = sprintf(p->out, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%sContent-Length: %zu\r\n\r\n", path,
                       load.port, load.request_headers, size);
    memcpy(p->out + head, body, size);
    p->out_size = head + size;
    p->out_sent = 0;
    p->busy = true;
    p->posted = now(CLOCK_REALTIME);
    run.posts++;
    flush_request(p, false);
}

/* Return where the answer's body begins and set its length; NULL as long as the head is not there. */
static char *answer_body(char *bytes, size_t *length) {
    char *end = strstr(bytes, "\r\n\r\n");
    if (!end)
        return NULL;
    *end = 0;
    char *field = strcasestr(bytes, "\r\ncontent-length:");
    *length = field ? strtoul(field + 17, NULL, 10) : 0;
    *end = '\r';
    return end + 4;
}

void on_publisher(source *p, uint32_t events) {
    if (p->state == CONNECTING) {
        p->state = READY;
        watch(p, EPOLLIN, EPOLL_CTL_MOD);
        return;
    }
    if (events & EPOLLOUT)
        flush_request(p, true);
    size_t size = p->state == CLOSED ? 0 : receive(p), length;
    if (!size)
        return;
    char *body = answer_body(buffer, &length);
    if (!body || buffer + size < body + length) {
        keep(p, buffer, size);
        return;
    }
    if (strncmp(buffer, "HTTP/1.1 2", 10)) {
        run.errors++;
        snprintf(load.refusal, sizeof load.refusal, "%.*s", (int)strcspn(buffer, "\r\"\\"), buffer);
    }
    p->busy = false;
    run.answers++;
    record(&run.answer, now(CLOCK_REALTIME) - p->posted);
    if (run.mode == SATURATE && run.posts < run.count)
        post(p, now(CLOCK_REALTIME));
}

/* In a paced run: POST what is due, as far as there are publishers that are free. */
static void post_due(void) {
    ns time = now(CLOCK_REALTIME);
    for (int i = 0; i < load.publisher_count && run.posts < run.count && run.due <= time; i++)
        if (load.publishers[i].state == READY && !load.publishers[i].busy) {
            post(&load.publishers[i], run.due);
            run.due += run.interval;
        }
}

void advance(void) {
    if (run.mode == PACED)
        post_due();
    bool arrived = run.answers == run.posts && run.deliveries >= run.posts * run.fan;
    if (run.mode == ONE && arrived && run.posts < run.count && load.publishers[0].state == READY)
        post(&load.publishers[0], now(CLOCK_REALTIME));
}
