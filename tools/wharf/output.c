#include "verb.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int verb_fail(const struct verb *v, int code, const char *fmt, ...)
{
        va_list ap;
        fprintf(stderr, "wharf%s%s: ", v ? " " : "", v ? v->name : "");
        va_start(ap, fmt);
        vfprintf(stderr, fmt, ap);
        va_end(ap);
        fputc('\n', stderr);
        return code;
}

int verb_usage(const struct verb *v)
{
        fprintf(stderr, "usage: wharf %s %s\n", v->name, v->args);
        return EXIT_USAGE;
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
