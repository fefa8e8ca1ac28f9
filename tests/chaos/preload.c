/* Loaded into the nodes' processes: a wall clock that can jump and a disk that can fail.
 *
 * $CHAOS_CONTROL/<name of the state directory> holds `struct control`, mapped by every process
 * that was given --state-dir and written by the harness. Monotonic clocks stay as they are.
 * fsync and fdatasync fail, or are slow, for files below a directory called "raft".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t clock_offset_ms;
    int32_t fsync_error;
    int32_t fsync_delay_us;
};

static const volatile struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *directory = getenv("CHAOS_CONTROL");
    char line[4096], path[4096];
    int fd = directory ? open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    ssize_t length = read(fd, line, sizeof line - 1);
    close(fd);
    if (length <= 0) return;
    line[length] = 0;
    for (char *word = line; word < line + length; word += strlen(word) + 1) {
        char *value = word + strlen(word) + 1;
        if (strcmp(word, "--state-dir") || value >= line + length) continue;
        char *name = strrchr(value, '/');
        snprintf(path, sizeof path, "%s/%s", directory, name ? name + 1 : value);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return;
        void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
        if (page != MAP_FAILED) control = page;
        return;
    }
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real ? real(id, now) : (int)syscall(SYS_clock_gettime, id, now);
    if (!result && control && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t nanoseconds = now->tv_nsec + (control->clock_offset_ms % 1000) * 1000000;
        now->tv_sec += control->clock_offset_ms / 1000;
        while (nanoseconds < 0) { nanoseconds += 1000000000; now->tv_sec--; }
        while (nanoseconds >= 1000000000) { nanoseconds -= 1000000000; now->tv_sec++; }
        now->tv_nsec = nanoseconds;
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *answer) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (answer) *answer = now.tv_sec;
    return now.tv_sec;
}

static int broken(int fd) {
    char link[64], path[4096];
    if (!control || (!control->fsync_error && !control->fsync_delay_us)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (!strstr(path, "/raft")) return 0;
    if (control->fsync_delay_us) usleep(control->fsync_delay_us);
    return control->fsync_error;
}

int fsync(int fd) {
    int error = broken(fd);
    if (error) { errno = error; return -1; }
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    int error = broken(fd);
    if (error) { errno = error; return -1; }
    return (int)syscall(SYS_fdatasync, fd);
}
