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
 *   settle                                      until every subscriber was pinged after its last delivery
 *   close                                       close the subscribers, orderly
 *
 * FAN is how many deliveries one POST makes. The file REQUEST has the path, headers, an empty line and the
 * body; @T@ becomes the time (nanoseconds since the epoch, 19 digits) and @U@ a random subscriber's index.
 * A delivery is a text message with "t":<the time>; in a paced run that is when the POST was due, so a
 * server that holds up the publishers does not look faster for it.
 */
#include "load.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

struct load load = {.timeout = 30000000000};
struct run run;
char buffer[BUFFER + 1];

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

static bool is_settled(void) {
    for (int i = 0; i < load.subscriber_count; i++)
        if (load.subscribers[i].state == READY && load.subscribers[i].unconfirmed)
            return false;
    return true;
}

static void settle(void) {
    begin(INT64_MAX);
    ns start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    while (!is_settled() && now(CLOCK_MONOTONIC) - start < load.timeout)
        turn(100);
    report(now(CLOCK_MONOTONIC) - start, now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
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
    else if (!strncmp(line, "settle", 6))
        settle();
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
