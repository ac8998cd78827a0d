/* The load generator: many WebSocket subscribers and a few HTTP publishers in one process.
 *
 * Usage: load PORT PATHS [--ready TEXT] [--hello TEXT] [--beat TEXT] [--pong IN OUT] [--timeout SECONDS]
 *
 * PATHS names a file with one request target (path and query) per subscriber. TEXT of --ready is what a
 * subscriber has to receive to count as ready (else the handshake does), --hello is sent after the
 * handshake, text that begins with --beat is not counted, and the text IN of --pong is answered with OUT.
 *
 * It takes one command a line on stdin and answers each with one line of JSON on stdout:
 *
 *   connect CONCURRENCY EACH                    all subscribers, until they are ready and have EACH deliveries
 *   publishers COUNT REQUEST                    open COUNT connections for the request in the file REQUEST
 *   one FAN COUNT                               a POST only when the last one has fully arrived
 *   paced FAN COUNT RATE                        RATE POSTs a second, whatever the answers do
 *   saturate FAN COUNT                          every publisher POSTs as soon as it has its answer
 *   close                                       close the subscribers, orderly
 *
 * FAN is how many deliveries one POST makes. The file REQUEST has the path, headers, an empty line and the
 * body; @T@ becomes the time (nanoseconds since the epoch, 19 digits) and @U@ a random subscriber's index.
 * A delivery is a text message with "t":<the time>; in a paced run that is when the POST was due, so a
 * server that holds up the publishers does not look faster for it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (4 << 20)
#define MARK "\"t\":"
/* The nonce of RFC 6455 section 1.3, and the answer to it. */
#define NONCE "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

typedef int64_t ns;
typedef enum { SUBSCRIBER, PUBLISHER, TIMER, COMMANDS } kind;
typedef enum { CLOSED, CONNECTING, UPGRADING, OPEN, READY } state;

/* A socket, or another source of events. `kept` is the beginning of what has not arrived in full. */
typedef struct {
    kind kind;
    state state;
    int fd;
    uint32_t deliveries;
    char *kept;
    size_t kept_size;
    char *path;           /* a subscriber's request target */
    char *out;            /* a publisher's request, as far as it is not sent */
    size_t out_size, out_sent;
    bool busy;            /* a publisher that waits for its answer */
    ns posted;
} source;

/* Logarithmic buckets with 64 steps to each power of two: within 1.6 %. */
typedef struct {
    uint64_t counts[64 * 64];
    uint64_t total;
    ns most;
} histogram;

static struct {
    int port, epoll;
    const char *ready, *hello, *beat, *ping, *pong;
    ns timeout;
    source *subscribers, *publishers, timer, commands;
    int subscriber_count, publisher_count;
    int ready_count, connecting, failed, lost;
    char *request_path, *request_headers, *request_body;
    char refusal[160];
} load = {.timeout = 30000000000};

/* The run under way, or the last one. */
static struct {
    enum { IDLE, ONE, PACED, SATURATE } mode;
    ns begun, interval, due;
    int64_t fan, count, expected, posts, answers, errors, deliveries, stray, other;
    histogram latency, answer;
} run;

static char buffer[BUFFER + 1];

static ns now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void record(histogram *h, ns value) {
    uint64_t v = value < 64 ? 64 : value;
    int power = 63 - __builtin_clzll(v);
    h->counts[power * 64 + ((v >> (power - 6)) & 63)]++;
    h->total++;
    if (value > h->most)
        h->most = value;
}

static ns percentile(const histogram *h, double share) {
    uint64_t wanted = share * h->total, seen = 0;
    for (int i = 0; i < 64 * 64; i++)
        if ((seen += h->counts[i]) > wanted)
            return (ns)((64 | (uint64_t)(i & 63)) << (i / 64 - 6));
    return h->most;
}

/* --- sockets */

static void watch(source *s, uint32_t events, int how) {
    struct epoll_event e = {.events = events, .data.ptr = s};
    if (epoll_ctl(load.epoll, how, s->fd, &e) < 0)
        die("epoll_ctl");
}

static void start_connect(source *s) {
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

static void drop(source *s) {
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

static void keep(source *s, const char *from, size_t size) {
    if (size && !(s->kept = realloc(s->kept, size)))
        die("realloc");
    memcpy(s->kept, from, size);
    s->kept_size = size;
}

/* Put what was kept and what has arrived into the buffer; 0 where there is nothing (more). */
static size_t receive(source *s) {
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

/* --- subscribers */

static void send_frame(source *s, int opcode, const char *payload, size_t size) {
    static const char key[4] = {0x2f, 0x11, 0x6b, 0x5c};
    char frame[6 + 125] = {(char)(0x80 | opcode), (char)(0x80 | size), key[0], key[1], key[2], key[3]};
    for (size_t i = 0; i < size; i++)
        frame[6 + i] = payload[i] ^ key[i & 3];
    if (send(s->fd, frame, 6 + size, MSG_NOSIGNAL) != (ssize_t)(6 + size))
        drop(s);
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
        record(&run.latency, now(CLOCK_REALTIME) - sent);
    } else if (s->state == OPEN && load.ready && memmem(text, size, load.ready, strlen(load.ready))) {
        s->state = READY;
        load.ready_count++;
        load.connecting--;
    } else if (load.ping && size == strlen(load.ping) && !memcmp(text, load.ping, size)) {
        send_frame(s, 1, load.pong, strlen(load.pong));
    } else if (s->state == READY && !(load.beat && size >= strlen(load.beat) && !memcmp(text, load.beat, strlen(load.beat)))) {
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
        else if (head[0] == 0x89 && length <= 125)
            send_frame(s, 10, payload, length);
        else if (head[0] != 0x8a) /* closing, binary, fragmented: nothing that we asked for */
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

static void on_subscriber(source *s, uint32_t events) {
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
    if (s->state == UPGRADING && size)
        at = on_upgrade(s, buffer);
    if (s->state >= OPEN)
        at += on_frames(s, buffer + at, size - at);
    if (s->state != CLOSED)
        keep(s, buffer + at, size - at);
}

/* --- publishers */

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

static void flush_request(source *p) {
    ssize_t sent = send(p->fd, p->out + p->out_sent, p->out_size - p->out_sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        drop(p);
        return;
    }
    bool held = p->out_sent < p->out_size && p->out_sent > 0;
    p->out_sent += sent > 0 ? sent : 0;
    bool holds = p->out_sent < p->out_size;
    if (holds || held)
        watch(p, EPOLLIN | (holds ? EPOLLOUT : 0), EPOLL_CTL_MOD);
}

static void post(source *p, ns time) {
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
    flush_request(p);
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

static void on_publisher(source *p, uint32_t events) {
    if (p->state == CONNECTING) {
        p->state = READY;
        watch(p, EPOLLIN, EPOLL_CTL_MOD);
        return;
    }
    if (events & EPOLLOUT)
        flush_request(p);
    size_t size = p->state == CLOSED ? 0 : receive(p), length;
    char *body = size ? answer_body(buffer, &length) : NULL;
    if (!body || buffer + size < body + length) {
        if (p->state != CLOSED)
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

static void advance(void) {
    if (run.mode == PACED)
        post_due();
    bool arrived = run.answers == run.posts && run.deliveries >= run.posts * run.fan;
    if (run.mode == ONE && arrived && run.posts < run.count && load.publishers[0].state == READY)
        post(&load.publishers[0], now(CLOCK_REALTIME));
}

/* --- the loop */

static void turn(int wait) {
    static struct epoll_event events[1024];
    int count = epoll_wait(load.epoll, events, 1024, wait);
    for (int i = 0; i < count; i++) {
        source *s = events[i].data.ptr;
        uint64_t ticks;
        if (s->kind == TIMER)
            (void)!read(s->fd, &ticks, sizeof ticks);
        else if (s->kind == SUBSCRIBER && s->state != CLOSED)
            on_subscriber(s, events[i].events);
        else if (s->kind == PUBLISHER && s->state != CLOSED)
            on_publisher(s, events[i].events);
    }
}

static void begin(ns begun) {
    memset(&run, 0, sizeof run);
    run.begun = begun;
    load.lost = load.failed = 0;
    load.refusal[0] = 0;
    for (int i = 0; i < load.subscriber_count; i++)
        load.subscribers[i].deliveries = 0;
}

static void report(ns elapsed, ns cpu) {
    uint32_t least = load.subscriber_count ? UINT32_MAX : 0, most = 0;
    for (int i = 0; i < load.subscriber_count; i++) {
        uint32_t n = load.subscribers[i].deliveries;
        least = n < least ? n : least;
        most = n > most ? n : most;
    }
    printf("{\"seconds\":%.6f,\"cpu\":%.6f,\"ready\":%d,\"failed\":%d,\"lost\":%d,\"refusal\":\"%s\","
           "\"posts\":%ld,\"answers\":%ld,\"errors\":%ld,\"expected\":%ld,\"deliveries\":%ld,"
           "\"least\":%u,\"most\":%u,\"stray\":%ld,\"other\":%ld,",
           elapsed / 1e9, cpu / 1e9, load.ready_count, load.failed, load.lost, load.refusal, run.posts, run.answers,
           run.errors, run.expected, run.deliveries, least, most, run.stray, run.other);
    printf("\"p50\":%.6f,\"p90\":%.6f,\"p99\":%.6f,\"max\":%.6f,\"answer_p50\":%.6f,\"answer_p99\":%.6f}\n",
           percentile(&run.latency, 0.5) / 1e9, percentile(&run.latency, 0.9) / 1e9,
           percentile(&run.latency, 0.99) / 1e9, run.latency.most / 1e9, percentile(&run.answer, 0.5) / 1e9,
           percentile(&run.answer, 0.99) / 1e9);
    fflush(stdout);
    /* What comes from now on belongs to no run. */
    run.mode = IDLE;
    run.stray = run.other = 0;
    run.begun = INT64_MAX;
}

static void connect_all(int concurrency, int64_t each) {
    begin(0);
    run.expected = each * load.subscriber_count;
    ns start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    int next = 0;
    while (load.ready_count + load.failed + load.lost < load.subscriber_count || run.deliveries < run.expected) {
        for (; next < load.subscriber_count && load.connecting < concurrency; next++) {
            load.connecting++;
            start_connect(&load.subscribers[next]);
        }
        turn(100);
        if (now(CLOCK_MONOTONIC) - start > load.timeout)
            break;
    }
    report(now(CLOCK_MONOTONIC) - start, now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

static void publish(int mode, int64_t fan, int64_t count, double rate) {
    int64_t stray = run.stray, other = run.other;
    begin(now(CLOCK_REALTIME) - 1000); /* what went through a double, as in JavaScript, is off by up to 128 */
    run.stray = stray;
    run.other = other;
    run.fan = fan;
    run.count = count;
    run.expected = count * fan;
    run.mode = mode;
    ns start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID), passed = 0;
    if (mode == PACED) {
        run.interval = 1e9 / rate;
        run.due = now(CLOCK_REALTIME);
        struct timespec tick = {.tv_nsec = run.interval < 500000 ? run.interval : 500000};
        timerfd_settime(load.timer.fd, 0, &(struct itimerspec){tick, tick}, NULL);
    }
    for (int i = 0; mode == SATURATE && i < load.publisher_count && run.posts < count; i++)
        post(&load.publishers[i], now(CLOCK_REALTIME));
    while ((run.answers < count || run.deliveries < run.expected) && passed < load.timeout) {
        advance();
        turn(100);
        passed = now(CLOCK_MONOTONIC) - start;
    }
    timerfd_settime(load.timer.fd, 0, &(struct itimerspec){0}, NULL);
    report(passed, now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

static void close_all(void) {
    begin(INT64_MAX);
    ns start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < load.subscriber_count; i++)
        if (load.subscribers[i].state == READY)
            send_frame(&load.subscribers[i], 8, "\x03\xe8", 2);
    while (load.ready_count && now(CLOCK_MONOTONIC) - start < load.timeout)
        turn(100);
    load.lost = 0;
    report(now(CLOCK_MONOTONIC) - start, now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

/* --- what is to be done */

static char *read_file(const char *path) {
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

static void read_request(const char *path) {
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

static void open_publishers(int count, const char *request) {
    read_request(request);
    for (int i = 0; i < load.publisher_count; i++) {
        if (load.publishers[i].state != CLOSED)
            drop(&load.publishers[i]);
        free(load.publishers[i].out);
        free(load.publishers[i].kept);
    }
    begin(INT64_MAX);
    free(load.publishers);
    load.publishers = calloc(count, sizeof(source));
    load.publisher_count = count;
    for (int i = 0; i < count; i++) {
        load.publishers[i] = (source){.kind = PUBLISHER, .out = malloc(2 * strlen(load.request_body) + 8192)};
        start_connect(&load.publishers[i]);
        while (load.publishers[i].state == CONNECTING)
            turn(100);
    }
    report(0, 0);
}

static void obey(char *line) {
    char request[4096];
    long fan, count;
    double rate;
    if (sscanf(line, "connect %ld %ld", &count, &fan) == 2)
        connect_all(count, fan);
    else if (sscanf(line, "publishers %ld %4095[^\n]", &count, request) == 2)
        open_publishers(count, request);
    else if (sscanf(line, "one %ld %ld", &fan, &count) == 2)
        publish(ONE, fan, count, 0);
    else if (sscanf(line, "paced %ld %ld %lf", &fan, &count, &rate) == 3)
        publish(PACED, fan, count, rate);
    else if (sscanf(line, "saturate %ld %ld", &fan, &count) == 2)
        publish(SATURATE, fan, count, 0);
    else if (!strncmp(line, "close", 5))
        close_all();
    else
        printf("{\"error\":\"unknown command\"}\n"), fflush(stdout);
}

static void read_paths(const char *path) {
    char *text = read_file(path);
    for (char *at = text; (at = strchr(at, '\n')); at++)
        load.subscriber_count++;
    load.subscribers = calloc(load.subscriber_count + 1, sizeof(source));
    int i = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        load.subscribers[i++] = (source){.kind = SUBSCRIBER, .path = line};
}

static void read_arguments(int argc, char **argv) {
    if (argc < 3)
        die("usage: load PORT PATHS [options]");
    load.port = atoi(argv[1]);
    read_paths(argv[2]);
    for (int i = 3; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--ready"))
            load.ready = argv[i + 1];
        else if (!strcmp(argv[i], "--hello"))
            load.hello = argv[i + 1];
        else if (!strcmp(argv[i], "--beat"))
            load.beat = argv[i + 1];
        else if (!strcmp(argv[i], "--timeout"))
            load.timeout = atof(argv[i + 1]) * 1e9;
        else if (!strcmp(argv[i], "--pong") && i + 2 < argc)
            load.ping = argv[i + 1], load.pong = argv[++i + 1];
        else
            die(argv[i]);
    }
}

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    load.epoll = epoll_create1(0);
    read_arguments(argc, argv);
    load.timer = (source){.kind = TIMER, .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)};
    load.commands = (source){.kind = COMMANDS, .fd = 0};
    watch(&load.timer, EPOLLIN, EPOLL_CTL_ADD);
    begin(INT64_MAX);
    /* Between commands the connections are served too: pings do not wait for the next run. */
    static char line[8192];
    size_t size = 0;
    fcntl(0, F_SETFL, O_NONBLOCK);
    watch(&load.commands, EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        turn(-1);
        ssize_t got = read(0, line + size, sizeof line - 1 - size);
        if (got < 0)
            continue;
        if (got == 0 || size + got >= sizeof line - 1)
            return 0;
        line[size += got] = 0;
        if (line[size - 1] == '\n') {
            obey(line);
            size = 0;
        }
    }
}
