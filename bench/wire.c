/* The two ends of `bench.overlay`: one small server and clients for throughput, requests and connections.
 *
 *   wire server PORT               each connection says what it wants by its first byte
 *   wire stream HOST PORT SECONDS  bytes a second, sent
 *   wire rr HOST PORT SECONDS      requests a second on one kept connection, one byte each way
 *   wire crr HOST PORT SECONDS     the same with a connection for each
 *
 * The clients print one number and, for rr, the median round trip in microseconds. Built static, it runs in any image.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
    fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *serve(void *argument) {
    int fd = (int)(long)argument, one = 1;
    static __thread char buffer[256 * 1024];
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ssize_t got = recv(fd, buffer, 1, 0);
    if (got == 1 && buffer[0] == 's') {
        while (recv(fd, buffer, sizeof buffer, 0) > 0) { }
    } else {
        while (got > 0) {
            if (send(fd, buffer, 1, MSG_NOSIGNAL) != 1) break;
            got = recv(fd, buffer, 1, 0);
        }
    }
    close(fd);
    return NULL;
}

static int server(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 512 * 1024);
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && pthread_create(&thread, &detached, serve, (void *)(long)fd)) close(fd);
    }
}

static int dial(struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)address, sizeof *address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void ping(int fd) {
    char byte = 'r';
    if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1) die("request");
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "server")) return server(atoi(argv[2]));
    if (argc != 5) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
    if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) die("address");
    double seconds = atof(argv[4]), begin = now(), end = begin + seconds;
    long count = 0;
    if (!strcmp(argv[1], "stream")) {
        static char buffer[128 * 1024];
        memset(buffer, 's', sizeof buffer);
        int fd = dial(&address);
        while (now() < end) {
            ssize_t sent = send(fd, buffer, sizeof buffer, MSG_NOSIGNAL);
            if (sent <= 0) die("send");
            count += sent;
        }
        printf("%.0f\n", count / (now() - begin));
        return 0;
    }
    if (!strcmp(argv[1], "rr")) {
        static float times[4 << 20];
        int fd = dial(&address);
        double last = now();
        while (last < end && count < (long)(sizeof times / sizeof *times)) {
            ping(fd);
            double next = now();
            times[count++] = next - last;
            last = next;
        }
        qsort(times, count, sizeof *times, compare);
        printf("%.0f %.1f\n", count / (last - begin), times[count / 2] * 1e6);
        return 0;
    }
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    while (now() < end) {
        int fd = dial(&address);
        ping(fd);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard); /* no TIME_WAIT: ports would run out */
        close(fd);
        count++;
    }
    printf("%.0f\n", count / (now() - begin));
    return 0;
}
