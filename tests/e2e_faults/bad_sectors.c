/* Makes reads fail with EIO, as those of a disk's bad sectors do: LD_PRELOAD it. $BAD_SECTORS names a file with a line "FROM TO PATH"
   for each stretch of bytes that cannot be read; it is looked at with each read, so that it can be changed at any time. A read that
   begins before such bytes ends there. Each failure adds a byte to the file "$BAD_SECTORS.met". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where the first bad byte of a read lies; -1 where there is none. */
static long long first_bad(const char *list, int fd, long long start, long long end) {
    char link[64], path[PATH_MAX], bad_path[PATH_MAX];
    long long from, to, first = -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    FILE *lines = length < 0 ? NULL : fopen(list, "re");
    if (lines == NULL) return -1;
    path[length] = 0;
    while (fscanf(lines, "%lld %lld %4095s", &from, &to, bad_path) == 3) {
        long long at = from > start ? from : start;
        if (at < end && at < to && strcmp(path, bad_path) == 0 && (first < 0 || at < first)) first = at;
    }
    fclose(lines);
    return first;
}

static void note(const char *list) {
    char met[PATH_MAX];
    snprintf(met, sizeof met, "%s.met", list);
    int fd = open(met, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0 && write(fd, "x", 1) == 1) close(fd);
}

ssize_t pread64(int fd, void *buffer, size_t count, off64_t offset) {
    const char *list = getenv("BAD_SECTORS");
    long long bad = list == NULL ? -1 : first_bad(list, fd, offset, offset + (long long)count);
    if (bad == offset) {
        note(list);
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pread64, fd, buffer, bad < 0 ? count : (size_t)(bad - offset), offset);
}

ssize_t pread(int fd, void *buffer, size_t count, off_t offset) {
    return pread64(fd, buffer, count, offset);
}
