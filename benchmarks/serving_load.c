/* The client of benchmarks/serving.py: sends one HTTP request over and over, and writes what came back as JSON.
 *
 *   serving_load ADDRESS PORT REQUEST_FILE CONNECTIONS SECONDS RATE
 *
 * RATE 0: each connection asks again as soon as it is answered (a closed loop, as wrk does).
 * RATE > 0: a request is due every 1/RATE seconds, whatever the answers do (an open loop, which wrk cannot do). It goes
 * out on a free connection; its time counts from when it was due. When all connections wait, the request is dropped and
 * counted: the offered load stays what was asked for, and the server sees CONNECTIONS requests at once at most. What is
 * due is looked for every half millisecond, as the client shares the processors with the server.
 *
 * Connections are kept alive, and opened again where the server closes them. Only answers with status 200 count as good.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 1 << 14 };
#define PACE 0.0005 /* seconds */

typedef struct {
    int fd, busy, status, closing;
    int writing;         /* the socket took a part of the request only: told when it takes more */
    size_t sent, held;   /* bytes of the request that went out; bytes of the answer's head in `head` */
    long long left;      /* bytes of the answer's body still to come; -1: the head is not complete yet */
    double began;
    char head[HEAD + 1];
} Connection;

static struct sockaddr_in server;
static char *request;
static size_t request_size;
static int poller;
static Connection *connections, **idle; /* `idle`: a stack of those that wait for no answer */
static int count, idles;
static double *good;
static size_t goods, room, refused, failed, dropped, first_status;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(Connection *c, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event) < 0) die("epoll_ctl");
}

static void dial(Connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("socket");
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    c->writing = 0;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void set_free(Connection *c) {
    if (c->busy) idle[idles++] = c;
    c->busy = 0;
}

static void redial(Connection *c) {
    close(c->fd);
    set_free(c);
    dial(c);
}

/* Send what the socket takes; 0 when the connection broke. */
static int push(Connection *c) {
    while (c->sent < request_size) {
        ssize_t n = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                if (!c->writing) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
                c->writing = 1;
                return 1;
            }
            return 0;
        }
        c->sent += (size_t)n;
    }
    if (c->writing) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->writing = 0;
    return 1;
}

static void ask(double due) {
    Connection *c = idle[--idles];
    c->busy = 1;
    c->closing = c->status = 0;
    c->sent = c->held = 0;
    c->left = -1;
    c->began = due;
    if (!push(c)) {
        failed++;
        redial(c);
    }
}

static void done(Connection *c, double at) {
    set_free(c);
    if (c->status == 200) {
        if (goods == room) {
            room = room ? 2 * room : 1 << 16;
            good = realloc(good, room * sizeof *good);
            if (!good) die("realloc");
        }
        good[goods++] = at - c->began;
    } else {
        refused++;
        first_status = first_status ? first_status : (size_t)c->status;
    }
    if (c->closing || c->sent < request_size) redial(c);
}

/* Read the status, the length and whether the server closes, once the head is complete. */
static void read_head(Connection *c) {
    c->head[c->held] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        if (c->held == HEAD) fprintf(stderr, "an answer's head is too long\n"), exit(1);
        return;
    }
    c->status = atoi(c->head + 9);
    long long length = -1;
    for (char *line = strstr(c->head, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) length = atoll(line + 17);
        if (!strncasecmp(line + 2, "connection: close", 17)) c->closing = 1;
    }
    if (length < 0) fprintf(stderr, "an answer has no Content-Length:\n%s\n", c->head), exit(1);
    c->left = length - (long long)(c->held - (size_t)(end + 4 - c->head));
}

static void pull(Connection *c) {
    static char sink[1 << 18];
    int one = 1;  /* acknowledge at once: a server that sends head and body apart would wait 40 ms for it */
    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    for (;;) {
        char *into = c->left < 0 ? c->head + c->held : sink;
        size_t size = c->left < 0 ? HEAD - c->held : sizeof sink;
        ssize_t n = recv(c->fd, into, size, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            failed += (size_t)c->busy;
            redial(c);
            return;
        }
        if (c->left < 0) {
            c->held += (size_t)n;
            read_head(c);
        } else {
            c->left -= n;
        }
        if (c->left == 0) {
            done(c, now());
            return;
        }
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at_rank(double share) {
    return goods ? 1000 * good[(size_t)(share * (double)(goods - 1))] : -1;
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    struct stat facts;
    if (!file || fstat(fileno(file), &facts) < 0) die(path);
    request_size = (size_t)facts.st_size;
    request = malloc(request_size);
    if (!request || fread(request, 1, request_size, file) != request_size) die(path);
    fclose(file);
}

int main(int given, char **arguments) {
    if (given != 7) return fprintf(stderr, "ADDRESS PORT REQUEST_FILE CONNECTIONS SECONDS RATE\n"), 2;
    server.sin_family = AF_INET;
    server.sin_port = htons((unsigned short)atoi(arguments[2]));
    inet_pton(AF_INET, arguments[1], &server.sin_addr);
    read_request(arguments[3]);
    count = atoi(arguments[4]);
    double seconds = atof(arguments[5]), rate = atof(arguments[6]);
    poller = epoll_create1(0);
    connections = calloc((size_t)count, sizeof *connections);
    idle = calloc((size_t)count, sizeof *idle);
    if (!connections || !idle) die("calloc");
    for (int i = 0; i < count; i++) dial(&connections[i]), idle[idles++] = &connections[i];

    double began = now(), end = began + seconds, due = began;
    struct epoll_event events[256];
    while (rate <= 0 && idles) ask(began);
    for (double at = now(); at < end; at = now()) {
        for (; rate > 0 && due <= at; due += 1 / rate)
            if (idles) ask(due);
            else dropped++;
        double until = rate > 0 && idles ? (due > at + PACE ? due : at + PACE) : end;
        double wait = (until < end ? until : end) - at;
        struct timespec nap = {(time_t)wait, (long)(1e9 * (wait - (double)(time_t)wait))};
        int answering = epoll_pwait2(poller, events, 256, &nap, NULL);
        if (answering < 0 && errno != EINTR) die("epoll_pwait2");
        /* What was due while all connections waited is counted now: to wake up for each would take the server's time. */
        for (at = now(); rate > 0 && !idles && due <= at; due += 1 / rate) dropped++;
        for (int i = 0; i < answering; i++) {
            Connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT && c->busy && !push(c)) {
                failed++;
                redial(c);
            } else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                pull(c);
            }
            while (rate <= 0 && idles) ask(now());
        }
    }
    double took = now() - began;
    qsort(good, goods, sizeof *good, ascending);
    printf("{\"good\": %zu, \"refused\": %zu, \"failed\": %zu, \"dropped\": %zu, \"first_status\": %zu, \"rate\": %.3f, "
           "\"p50\": %.4f, \"p99\": %.4f, \"max\": %.4f}\n",
           goods, refused, failed, dropped, first_status, (double)goods / took, at_rank(.5), at_rank(.99), at_rank(1));
    return 0;
}
