#include "common.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRESS_AFTER_NS ((int64_t)1000000000)
#define PROGRESS_EVERY_NS ((int64_t)200000000)

int verb_error(const struct verb *v, const char *what, int err)
{
        if (err == -EPIPE) /* it died since it was looked up, and the name with it */
                return verb_fail(v, EXIT_NOT_FOUND, "%s: no process serves this name any more", what);
        const char *why = wharf_why();
        int code = verb_exit_code(err);
        size_t n = strlen(what);
        if (!strncmp(why, what, n) && why[n] == ':') /* it begins with the domain already, and so do we */
                return verb_fail(v, code, "%s", why);
        if (*why)
                return verb_fail(v, code, "%s: %s", what, why);
        return verb_fail(v, code, "%s: %s", what, wharf_strerror(err));
}

int verb_task(const struct verb *v, wharf_task **ret)
{
        /* Shared with whatever else this machine does: a wait sleeps. */
        struct wharf_task_opts o = {.size = sizeof o, .spin_us_max = WHARF_NO_SPIN};
        if (*wharf_domain_path() != '/')
                return verb_fail(v, EXIT_USAGE, "WHARF_DOMAIN: '%s' is not an absolute path", wharf_domain_path());
        int r = wharf_task_open(&o, ret);
        return r < 0 ? verb_error(v, "no task", r) : EXIT_DONE;
}

int verb_lookup(const struct verb *v, wharf_task *task, const char *name, int64_t deadline_ns, wharf_name *ret)
{
        int r = wharf_lookup(task, name, deadline_ns, ret);
        if (r == -ENOENT && deadline_ns)
                return verb_fail(v, EXIT_TIMED_OUT, "%s: no process has served this name in time", name);
        if (r == -ENOENT)
                return verb_fail(v, EXIT_NOT_FOUND, "%s: no process serves this name", name);
        return r < 0 ? verb_error(v, name, r) : EXIT_DONE;
}

int verb_register(const struct verb *v, wharf_task *task, const char *name, wharf_name port)
{
        int r = wharf_register(task, name, port);
        if (r == -EEXIST)
                return verb_fail(v, EXIT_REFUSED, "%s: another process serves this name", name);
        return r < 0 ? verb_error(v, name, r) : EXIT_DONE;
}

void verb_renew(const struct verb *v, wharf_task *task, bool *ret_lost)
{
        int r = wharf_names_renew(task);
        if (r == -EEXIST) { /* it is another process's now, and the library asks for it no more */
                verb_error(v, "the name is lost", r);
                *ret_lost = false;
                return;
        }
        if (r < 0 && !*ret_lost)
                verb_error(v, "the name is lost, for now", r);
        else if (r >= 0 && *ret_lost)
                verb_fail(v, 0, "the name is registered again");
        *ret_lost = r < 0;
}

int verb_read_input(const struct verb *v, uint64_t size_limit, uint8_t **ret, size_t *ret_len)
{
        uint8_t *data = NULL;
        size_t len = 0, cap = 0;
        int64_t next_ns = wharf_now_ns() + PROGRESS_AFTER_NS;
        char text[16];
        for (;;) {
                if (len == cap) {
                        size_t more = cap ? cap * 2 : 1 << 16;
                        if (more > size_limit + 1)
                                more = (size_t)size_limit + 1; /* one more than allowed shows that it is too much */
                        uint8_t *p = realloc(data, more);
                        if (!p) {
                                free(data);
                                return verb_fail(v, EXIT_REFUSED, "standard input: %s", wharf_strerror(-ENOMEM));
                        }
                        data = p;
                        cap = more;
                }
                ssize_t n = read(STDIN_FILENO, data + len, cap - len);
                struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
                if (n < 0 && errno == EAGAIN && poll(&p, 1, -1) >= 0) /* somebody has made it non-blocking */
                        continue;
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0) {
                        int err = errno;
                        free(data);
                        return verb_fail(v, EXIT_REFUSED, "standard input: %s", standard_error(err));
                }
                if (n == 0)
                        break;
                len += (size_t)n;
                if (len > size_limit) {
                        free(data);
                        return verb_fail(v, EXIT_REFUSED, "standard input: more than the limit of %s",
                                         format_size(size_limit, text));
                }
                if (wharf_now_ns() > next_ns) {
                        progress("%s read", format_size(len, text));
                        next_ns = wharf_now_ns() + PROGRESS_EVERY_NS;
                }
        }
        progress("%s", "");
        *ret = data;
        *ret_len = len;
        return EXIT_DONE;
}

int verb_output_begin(const struct verb *v)
{
        signal(SIGPIPE, SIG_IGN);
        signal(SIGXFSZ, SIG_IGN);
        return verb_output_ready(v);
}

int output_write(const void *data, size_t len)
{
        const char *at = data;
        while (len) {
                ssize_t n = write(STDOUT_FILENO, at, len);
                struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
                if (n < 0 && errno == EAGAIN && poll(&p, 1, -1) >= 0) /* somebody has made it non-blocking */
                        continue;
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                at += n;
                len -= (size_t)n;
        }
        return 0;
}

int64_t deadline_in(int64_t timeout_ns)
{
        int64_t now = wharf_now_ns();
        return timeout_ns < 0 || timeout_ns > WHARF_FOREVER - now ? WHARF_FOREVER : now + timeout_ns;
}

void progress(const char *fmt, ...)
{
        static int terminal = -1;
        static bool drawn;
        if (terminal < 0)
                terminal = isatty(STDERR_FILENO);
        char line[120];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(line, sizeof line, fmt, ap);
        va_end(ap);
        if (!terminal || (!*line && !drawn))
                return;
        drawn = *line != 0;
        fprintf(stderr, "\r\033[K%s", line);
        fflush(stderr);
}
