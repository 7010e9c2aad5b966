/* Preloaded into the roles: their wall clock differs from the real one by the seconds in the file CLOCK_STEP_FILE, which
 * is read again every 100 ms. The monotonic clock is not changed. It calls the kernel and allocates nothing: the
 * allocator of the roles asks for the time while it starts. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset_seconds;
static long read_at_ms = -1000;

static struct timespec real(clockid_t clock) {
    struct timespec now = {0, 0};
    syscall(SYS_clock_gettime, clock, &now);
    return now;
}

static long offset(void) {
    struct timespec now = real(CLOCK_MONOTONIC);
    long now_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (now_ms - __atomic_load_n(&read_at_ms, __ATOMIC_RELAXED) >= 100) {
        __atomic_store_n(&read_at_ms, now_ms, __ATOMIC_RELAXED);
        const char *path = getenv("CLOCK_STEP_FILE");
        int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
        if (file >= 0) {
            char text[32] = {0};
            if (syscall(SYS_read, file, text, sizeof text - 1) > 0)
                __atomic_store_n(&offset_seconds, strtol(text, NULL, 10), __ATOMIC_RELAXED);
            syscall(SYS_close, file);
        }
    }
    return __atomic_load_n(&offset_seconds, __ATOMIC_RELAXED);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return (int)result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec time = real(CLOCK_REALTIME);
    now->tv_sec = time.tv_sec + offset();
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    time_t now = real(CLOCK_REALTIME).tv_sec + offset();
    if (result) *result = now;
    return now;
}

/* librdkafka waits until a time of the wall clock: for as long as the stepped clock says. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    struct timespec wall = real(CLOCK_REALTIME), deadline = real(CLOCK_MONOTONIC);
    deadline.tv_sec += until->tv_sec - (wall.tv_sec + offset());
    deadline.tv_nsec += until->tv_nsec - wall.tv_nsec;
    if (deadline.tv_nsec < 0) deadline.tv_nsec += 1000000000, deadline.tv_sec -= 1;
    if (deadline.tv_nsec >= 1000000000) deadline.tv_nsec -= 1000000000, deadline.tv_sec += 1;
    if (deadline.tv_sec < 0) deadline.tv_sec = 0;
    return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &deadline);
}
