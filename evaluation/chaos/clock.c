/* A wall clock that can be stepped while a process runs: preloaded, it adds an offset that stands in a file (int64,
   microseconds, mapped) to what the kernel says. Monotonic clocks are left alone. libfaketime does the same, but recurses
   without end in a Redis that is built with jemalloc. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *offset_us;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) offset_us = page;
    close(file);
}

static long long now_ns(clockid_t id, struct timespec *at) {
    syscall(SYS_clock_gettime, id, at);
    long long ns = at->tv_sec * 1000000000LL + at->tv_nsec;
    int is_wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
    return is_wall && offset_us ? ns + *offset_us * 1000LL : ns;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    if (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE) return (int)syscall(SYS_clock_gettime, id, at);
    long long ns = now_ns(id, at);
    at->tv_sec = ns / 1000000000LL;
    at->tv_nsec = ns % 1000000000LL;
    return 0;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    long long ns = now_ns(CLOCK_REALTIME, &now);
    at->tv_sec = ns / 1000000000LL;
    at->tv_usec = ns % 1000000000LL / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    time_t seconds = now_ns(CLOCK_REALTIME, &now) / 1000000000LL;
    if (at) *at = seconds;
    return seconds;
}
