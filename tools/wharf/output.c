#include "verb.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *program_name = "wharf";

/* ---- what others have named ---- */

size_t utf8_next(const uint8_t *s, size_t len, uint32_t *ret)
{
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (!len)
                return 0;
        uint32_t c = s[0], more = c < 0x80 ? 0 : c >> 5 == 6 ? 1 : c >> 4 == 14 ? 2 : c >> 3 == 30 ? 3 : 4;
        if (more == 4 || more >= len)
                return 0;
        c &= more ? 0x3fu >> more : 0x7fu;
        for (uint32_t k = 1; k <= more; k++) {
                if (s[k] >> 6 != 2)
                        return 0;
                c = c << 6 | (s[k] & 0x3f);
        }
        if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
                return 0;
        *ret = c;
        return more + 1;
}

/* Is it seen where it stands, and nowhere else? */
static bool is_seen(uint32_t c)
{
        static const uint32_t unseen[][2] = {
                {0x00, 0x1f},     {0x7f, 0x9f},     {0xad, 0xad},     {0x61c, 0x61c},      {0x180b, 0x180f},
                {0x200b, 0x200f}, {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfeff, 0xfeff},    {0xfff0, 0xfffb},
                {0xfffe, 0xffff}, {0xe000, 0xf8ff}, {0xfdd0, 0xfdef}, {0xe0000, 0x10ffff},
        };
        for (unsigned i = 0; i < sizeof unseen / sizeof *unseen; i++)
                if (c >= unseen[i][0] && c <= unseen[i][1])
                        return false;
        return true;
}

char *text_escape(const void *bytes, size_t len, unsigned flags)
{
        static const char digits[] = "0123456789abcdef";
        const uint8_t *s = bytes;
        size_t room;
        if (__builtin_mul_overflow(len, (size_t)4, &room) || __builtin_add_overflow(room, (size_t)1, &room))
                return NULL;
        char *ret = malloc(room), *at = ret;
        while (ret && len) {
                uint32_t c = 0;
                size_t n = utf8_next(s, len, &c);
                bool line = flags & TEXT_LINES && (c == '\n' || c == '\t');
                if (n == 1 && c == '\\' && !(flags & TEXT_LINES))
                        *at++ = '\\';
                bool as_is = n && (line || is_seen(c));
                for (size_t i = 0; i < (n ? n : 1); i++) {
                        if (as_is) {
                                *at++ = (char)s[i];
                                continue;
                        }
                        *at++ = '\\';
                        *at++ = 'x';
                        *at++ = digits[s[i] >> 4];
                        *at++ = digits[s[i] & 15];
                }
                s += n ? n : 1;
                len -= n ? n : 1;
        }
        if (ret)
                *at = 0;
        return ret;
}

const char *shown(const char *name)
{
        static char *last[8];
        static unsigned next;
        char **slot = &last[next++ % 8];
        free(*slot);
        *slot = text_escape(name, strlen(name), 0);
        return *slot ? *slot : "?";
}

void text_vprint(FILE *f, const char *fmt, va_list ap)
{
        char *text = NULL;
        if (vasprintf(&text, fmt, ap) < 0)
                text = NULL;
        char *safe = text ? text_escape(text, strlen(text), 0) : NULL;
        fputs(safe ? safe : "out of memory", f);
        free(safe);
        free(text);
}

/* ---- saying what is wrong ---- */

int verb_fail(const struct verb *v, int code, const char *fmt, ...)
{
        va_list ap;
        flockfile(stderr);
        fprintf(stderr, "%s%s%s: ", program_name, v && v->name ? " " : "", v && v->name ? v->name : "");
        va_start(ap, fmt);
        text_vprint(stderr, fmt, ap);
        va_end(ap);
        fputc('\n', stderr);
        funlockfile(stderr);
        return code;
}

int verb_usage(const struct verb *v)
{
        fprintf(stderr, "usage: %s%s%s %s\n", program_name, v->name ? " " : "", v->name ? v->name : "", v->args);
        return EXIT_USAGE;
}

/* ---- the standard descriptors ---- */

int standard_open(void)
{
        /* The wrong way round: a write to what was closed must fail, and not be swallowed. */
        static const int modes[] = {O_WRONLY, O_RDONLY, O_RDWR};
        for (int fd = 0; fd <= 2; fd++)
                if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd] | O_CLOEXEC) != fd)
                        return verb_fail(NULL, EXIT_REFUSED, "descriptor %d is closed, and /dev/null: %s", fd,
                                         strerror(errno));
        return EXIT_DONE;
}

const char *standard_error(int err)
{
        return err == EBADF ? "it is not open" : err ? strerror(err) : "not everything could be written";
}

int verb_output_ready(const struct verb *v)
{
        int flags = fcntl(STDOUT_FILENO, F_GETFL), err = 0;
        struct pollfd p = {.fd = STDOUT_FILENO};
        if (flags < 0 || flags & O_PATH || (flags & O_ACCMODE) == O_RDONLY)
                err = EBADF;
        else if (poll(&p, 1, 0) > 0 && p.revents & (POLLERR | POLLHUP))
                err = EPIPE;
        return err ? verb_fail(v, EXIT_REFUSED, "standard output: %s", standard_error(err)) : EXIT_DONE;
}

int verb_finish(const struct verb *v, int code)
{
        errno = 0;
        bool bad = fflush(stdout) != 0;
        int err = bad ? errno : 0;
        bad |= ferror(stdout) != 0;
        if (fclose(stdout) != 0 && !bad) { /* where a file system on a network says that it is full */
                bad = true;
                err = errno;
        }
        if (!bad)
                return code;
        verb_fail(v, 0, "standard output: %s", standard_error(err));
        return code == EXIT_DONE ? EXIT_REFUSED : code;
}

int verb_exit_code(int err)
{
        switch (err < 0 ? -err : err) {
        case 0:
                return EXIT_DONE;
        case EINVAL:
                return EXIT_USAGE;
        case ENOENT:
                return EXIT_NOT_FOUND;
        case ETIMEDOUT:
        case EAGAIN:
                return EXIT_TIMED_OUT;
        default:
                return EXIT_REFUSED;
        }
}

bool parse_duration_ns(const char *text, int64_t *ret_ns)
{
        static const struct {
                const char *unit;
                double ns;
        } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
        char *end;
        errno = 0;
        double v = strtod(text, &end);
        if (end == text || errno || !(v >= 0))
                return false;
        for (unsigned i = 0; i < sizeof units / sizeof *units; i++)
                if (!strcmp(end, units[i].unit)) {
                        if (v * units[i].ns > 9e18)
                                return false;
                        *ret_ns = (int64_t)(v * units[i].ns);
                        return true;
                }
        return false;
}

bool parse_size(const char *text, uint64_t *ret_bytes)
{
        char *end;
        errno = 0;
        if (*text < '0' || *text > '9')
                return false;
        uint64_t v = strtoull(text, &end, 10), unit = 1;
        if (errno)
                return false;
        switch (*end) {
        case 'K':
                unit = 1 << 10;
                end++;
                break;
        case 'M':
                unit = 1 << 20;
                end++;
                break;
        case 'G':
                unit = 1 << 30;
                end++;
                break;
        }
        if (!strcmp(end, "iB") || !strcmp(end, "B"))
                end += strlen(end);
        return *end == 0 && !__builtin_mul_overflow(v, unit, ret_bytes);
}

const char *format_size(uint64_t bytes, char *buf)
{
        static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
        double v = (double)bytes;
        unsigned u = 0;
        while (v >= 1024 && u < 4) {
                v /= 1024;
                u++;
        }
        snprintf(buf, 16, v == (double)(uint64_t)v ? "%.0f %s" : "%.1f %s", v, units[u]);
        return buf;
}
