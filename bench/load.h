/* What the parts of the load generator share; what it does stands in load.c. */
#ifndef LOAD_H
#define LOAD_H
#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>

#define BUFFER (4 << 20)

typedef int64_t ns;
typedef enum { SUBSCRIBER, PUBLISHER, TIMER, COMMANDS } kind;
typedef enum { CLOSED, CONNECTING, UPGRADING, OPEN, READY } state;

/* A socket, or another source of events. `kept` is the beginning of what has not arrived in full. */
typedef struct {
    kind kind;
    state state;
    int fd;
    uint32_t deliveries;
    bool unconfirmed;     /* a subscriber that was not pinged since its last delivery */
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

/* What stays from command to command. */
struct load {
    int port, epoll;
    const char *ready, *hello, *beat, *ping, *pong;
    ns timeout;
    source *subscribers, *publishers, timer, commands;
    int subscriber_count, publisher_count;
    int ready_count, connecting, failed, lost;
    char *request_path, *request_headers, *request_body;
    char refusal[160];
};

/* The run under way, or the last one. */
struct run {
    enum { IDLE, ONE, PACED, SATURATE } mode;
    ns begun, interval, due;
    int64_t fan, count, expected, posts, answers, errors, deliveries, stray, other;
    histogram latency, answer;
};

extern struct load load;
extern struct run run;
extern char buffer[BUFFER + 1];

ns now(clockid_t clock);
void die(const char *what);
void record(histogram *h, ns value);
ns percentile(const histogram *h, double share);

void watch(source *s, uint32_t events, int how);
void start_connect(source *s);
void drop(source *s);
void keep(source *s, const char *from, size_t size);
size_t receive(source *s);

void send_frame(source *s, int opcode, const char *payload, size_t size);
void on_subscriber(source *s, uint32_t events);

char *read_file(const char *path);
void read_request(const char *path);
void post(source *p, ns time);
void on_publisher(source *p, uint32_t events);
void advance(void);

#endif
