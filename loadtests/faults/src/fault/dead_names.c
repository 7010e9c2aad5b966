/* Preloaded into dispatchers: names under dead.test have a name server that does not answer, and names under live.test
 * are 127.0.0.1. All others are looked up as ever. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int is_under(const char *name, const char *zone) {
    size_t length = name ? strlen(name) : 0, suffix = strlen(zone);
    return length > suffix && strcmp(name + length - suffix, zone) == 0 && name[length - suffix - 1] == '.';
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    lookup *real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    if (is_under(name, "dead.test")) {
        /* Two tries of five seconds at three servers. */
        sleep(30);
        return EAI_AGAIN;
    }
    return real(is_under(name, "live.test") ? "127.0.0.1" : name, service, hints, found);
}
