/*
 * segment_name - "posix:OS", "sysv:0x4d2", "sysv:PATH#ID", "sysv:id=17", "file:PATH", "anon:LABEL" taken apart.
 */
#include "memory/segment.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {
        [WHARF_SEGMENT_POSIX] = "posix",
        [WHARF_SEGMENT_SYSV] = "sysv",
        [WHARF_SEGMENT_FILE] = "file",
        [WHARF_SEGMENT_ANONYMOUS] = "anon",
};

const char *wharf_segment_kind_name(uint32_t kind)
{
        return kind >= WHARF_SEGMENT_POSIX && kind <= WHARF_SEGMENT_ANONYMOUS ? kind_names[kind] : NULL;
}

/* A number that fills all of `text`; decimal or 0x. */
static bool number(const char *text, uint64_t max, uint64_t *ret)
{
        char *end;
        int base = text[0] == '0' && (text[1] == 'x' || text[1] == 'X') ? 16 : 10;
        const char *digits = base == 16 ? text + 2 : text;
        if (!strchr("0123456789abcdefABCDEF", *digits) || !*digits)
                return false;
        errno = 0;
        unsigned long long v = strtoull(digits, &end, base);
        if (*end || errno || v > max)
                return false;
        *ret = v;
        return true;
}

/* The key that ftok(3) makes: it is the same for every program only because all use the same bits. */
static int key_of_path(const char *path, size_t path_len, const char *project, int32_t *ret)
{
        uint64_t id;
        if (!path_len || path_len >= PATH_MAX)
                return path_len ? -ENAMETOOLONG : -EINVAL;
        if (!number(project, 255, &id)) {
                if (!project[0] || project[1])
                        return -EINVAL;
                id = (unsigned char)project[0];
        }
        if (!id)
                return -EINVAL;
        char *p = wh_os_malloc(path_len + 1);
        if (!p)
                return wh_trace(-ENOMEM);
        memcpy(p, path, path_len);
        p[path_len] = 0;
        struct stat st;
        int r = wh_os_stat(p, true, &st);
        free(p);
        if (r < 0)
                return wh_trace(r);
        *ret = (int32_t)((uint32_t)(st.st_ino & 0xffff) | (uint32_t)(st.st_dev & 0xff) << 16 | (uint32_t)id << 24);
        return *ret ? 0 : -EINVAL;
}

static int sysv_name(const char *rest, struct wh_segment_name *n)
{
        uint64_t v;
        const char *hash = strrchr(rest, '#');
        n->id = -1;
        if (!strncmp(rest, "id=", 3)) {
                if (!number(rest + 3, INT32_MAX, &v))
                        return -EINVAL;
                n->id = (int32_t)v;
                n->has_id = true;
                return 0;
        }
        if (hash)
                return key_of_path(rest, (size_t)(hash - rest), hash + 1, &n->key);
        if (!number(rest, UINT32_MAX, &v) || !v) /* 0 is IPC_PRIVATE: not a name */
                return -EINVAL;
        n->key = (int32_t)(uint32_t)v;
        return 0;
}

static int posix_name(const char *rest, struct wh_segment_name *n)
{
        rest += *rest == '/';
        if (!*rest || strchr(rest, '/') || !strcmp(rest, ".") || !strcmp(rest, ".."))
                return -EINVAL;
        if (strlen(rest) > NAME_MAX)
                return -ENAMETOOLONG;
        snprintf(n->posix, sizeof n->posix, WH_POSIX_DIR "/%s", rest);
        n->path = n->posix;
        return 0;
}

int wh_segment_name(const char *name, struct wh_segment_name *ret)
{
        const char *colon = name ? strchr(name, ':') : NULL;
        if (!colon)
                return -EINVAL;
        for (uint32_t kind = WHARF_SEGMENT_POSIX; kind <= WHARF_SEGMENT_ANONYMOUS; kind++) {
                size_t len = strlen(kind_names[kind]);
                if ((size_t)(colon - name) != len || strncmp(name, kind_names[kind], len))
                        continue;
                *ret = (struct wh_segment_name){.kind = kind, .id = -1};
                const char *rest = colon + 1;
                if (kind == WHARF_SEGMENT_POSIX)
                        return posix_name(rest, ret);
                if (kind == WHARF_SEGMENT_SYSV)
                        return sysv_name(rest, ret);
                /* memfd_create(2) takes 249 bytes of name. */
                if (strlen(rest) >= (kind == WHARF_SEGMENT_FILE ? PATH_MAX : 250))
                        return -ENAMETOOLONG;
                if (kind == WHARF_SEGMENT_FILE && !*rest)
                        return -EINVAL;
                ret->path = rest;
                return 0;
        }
        return -EINVAL;
}
