// Loaded into pgvigil by LD_PRELOAD: numbers its calls that touch files below a folder, across all
// threads in one row, and does harm at one of them.  `strace --inject` counts every thread for
// itself and hits child processes too; this hits the N-th call of the program, whoever makes it.
// That no call is missed is checked against strace (tests/faults/syscalls.rs).
//
//   INJECT_UNDER=FOLDER  INJECT_CALLS=write,fsync,...  INJECT_LOG=FILE
//   INJECT_AT=N  INJECT_DEED=kill | stop | cut | ERRNO | ERRNO+ (from there on)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char *under, *calls, *deed;
static size_t under_len;
static long at = -1;
static int log_fd = -1;
static atomic_long seen;

static char *taken(const char *name) {
    const char *value = getenv(name);
    return value && *value ? strdup(value) : NULL;
}

__attribute__((constructor)) static void begin(void) {
    under = taken("INJECT_UNDER");
    under_len = under ? strlen(under) : 0;
    calls = taken("INJECT_CALLS");
    deed = taken("INJECT_DEED");
    if (getenv("INJECT_AT"))
        at = atol(getenv("INJECT_AT"));
    if (getenv("INJECT_LOG"))
        log_fd = open(getenv("INJECT_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    // Only pgvigil itself, not what it starts.
    unsetenv("LD_PRELOAD");
    atomic_store(&seen, 0);
}

static int counts(const char *call) {
    size_t len = strlen(call);
    for (const char *found = calls; found && (found = strstr(found, call)); found += len)
        if ((found == calls || found[-1] == ',') && (found[len] == ',' || !found[len]))
            return 1;
    return 0;
}

// A power cut: what is not on the disk is gone, and nothing more gets there (EXT4_IOC_SHUTDOWN
// without flushing the log).
static void cut_power(void) {
    unsigned how = 2;
    int fd = open(under, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, 0x8004587d, &how) != 0)
        dprintf(2, "inject: cannot cut the power\n");
}

// The errno to fail with, or 0.
static int harm(const char *call, const char *path) {
    if (!under || strncmp(path, under, under_len) != 0 || !counts(call))
        return 0;
    long n = atomic_fetch_add(&seen, 1) + 1;
    if (log_fd >= 0) {
        char line[8192];
        int len = snprintf(line, sizeof line, "%ld %s %s\n", n, call, path);
        if (syscall(SYS_write, log_fd, line, len) != len)
            abort();
    }
    if (!deed || at < 0 || n < at || (n > at && !strchr(deed, '+')))
        return 0;
    if (strcmp(deed, "cut") == 0)
        cut_power();
    if (strcmp(deed, "kill") == 0 || strcmp(deed, "cut") == 0) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    if (strcmp(deed, "stop") == 0) {
        kill(getpid(), SIGSTOP);
        return 0;
    }
    return atoi(deed);
}

static int harm_at(const char *call, int dir, const char *path) {
    char from[4096], link[64];
    if (path[0] == '/')
        return harm(call, path);
    if (dir == AT_FDCWD)
        strcpy(link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t len = readlink(link, from, sizeof from - 1 - strlen(path) - 1);
    if (len < 0)
        return 0;
    from[len] = 0;
    if (*path) {
        strcat(from, "/");
        strcat(from, path);
    }
    return harm(call, from);
}

static int harm_fd(const char *call, int fd) {
    int before = errno, error = harm_at(call, fd, "");
    errno = before;
    return error;
}

#define CALL(type, name, params, args, harmed)                                  \
    type name params {                                                          \
        static type(*real) params;                                              \
        if (!real)                                                              \
            real = dlsym(RTLD_NEXT, #name);                                     \
        int error = harmed;                                                     \
        if (error) {                                                            \
            errno = error;                                                      \
            return -1;                                                          \
        }                                                                       \
        return real args;                                                       \
    }

#define OPEN(name, params, dir, args)                                           \
    int name params {                                                           \
        static int(*real) params;                                               \
        if (!real)                                                              \
            real = dlsym(RTLD_NEXT, #name);                                     \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                           \
        int error = harm_at(flags & O_CREAT ? "create" : "open", dir, path);    \
        if (error) {                                                            \
            errno = error;                                                      \
            return -1;                                                          \
        }                                                                       \
        return real args;                                                       \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(openat, (int dir, const char *path, int flags, ...), dir, (dir, path, flags, mode))
OPEN(openat64, (int dir, const char *path, int flags, ...), dir, (dir, path, flags, mode))

CALL(ssize_t, read, (int fd, void *to, size_t len), (fd, to, len), harm_fd("read", fd))
CALL(ssize_t, pread64, (int fd, void *to, size_t len, off64_t from), (fd, to, len, from), harm_fd("read", fd))
CALL(ssize_t, write, (int fd, const void *from, size_t len), (fd, from, len), harm_fd("write", fd))
CALL(ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count), harm_fd("write", fd))
CALL(ssize_t, pwrite, (int fd, const void *from, size_t len, off_t to), (fd, from, len, to), harm_fd("write", fd))
CALL(ssize_t, pwrite64, (int fd, const void *from, size_t len, off64_t to), (fd, from, len, to), harm_fd("write", fd))
CALL(int, fsync, (int fd), (fd), harm_fd("fsync", fd))
CALL(int, fdatasync, (int fd), (fd), harm_fd("fsync", fd))
CALL(int, sync_file_range, (int fd, off64_t from, off64_t len, unsigned flags), (fd, from, len, flags), harm_fd("sync", fd))
CALL(int, ftruncate, (int fd, off_t len), (fd, len), harm_fd("truncate", fd))
CALL(int, ftruncate64, (int fd, off64_t len), (fd, len), harm_fd("truncate", fd))
CALL(int, fchmod, (int fd, mode_t mode), (fd, mode), harm_fd("chmod", fd))
CALL(int, fchown, (int fd, uid_t user, gid_t group), (fd, user, group), harm_fd("chmod", fd))
CALL(int, chmod, (const char *path, mode_t mode), (path, mode), harm_at("chmod", AT_FDCWD, path))
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), harm_at("mkdir", AT_FDCWD, path))
CALL(int, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), harm_at("mkdir", dir, path))
CALL(int, rename, (const char *from, const char *to), (from, to), harm_at("rename", AT_FDCWD, from))
CALL(int, renameat, (int dir, const char *from, int into, const char *to), (dir, from, into, to), harm_at("rename", dir, from))
CALL(int, renameat2, (int dir, const char *from, int into, const char *to, unsigned flags), (dir, from, into, to, flags), harm_at("rename", dir, from))
CALL(int, unlink, (const char *path), (path), harm_at("unlink", AT_FDCWD, path))
CALL(int, unlinkat, (int dir, const char *path, int flags), (dir, path, flags), harm_at("unlink", dir, path))
CALL(int, rmdir, (const char *path), (path), harm_at("unlink", AT_FDCWD, path))
CALL(int, symlink, (const char *to, const char *path), (to, path), harm_at("symlink", AT_FDCWD, path))
CALL(int, symlinkat, (const char *to, int dir, const char *path), (to, dir, path), harm_at("symlink", dir, path))
CALL(int, link, (const char *to, const char *path), (to, path), harm_at("link", AT_FDCWD, path))
CALL(int, linkat, (int from, const char *to, int dir, const char *path, int flags), (from, to, dir, path, flags), harm_at("link", dir, path))
