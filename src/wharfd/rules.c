#include "wharfd/rules.h"

#include "base/trace.h"
#include "os/os.h"
#include "task/why.h"
#include "names/proto.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX_BYTES = 1 << 20, WORDS_MAX = 64 };

enum whom { WHOM_NOBODY, WHOM_ALL, WHOM_UID, WHOM_GID };
struct rule {
        enum wh_action action;
        enum whom whom;
        uint32_t id; /* a uid or gid */
        uint32_t line;
        uint32_t len; /* of the pattern; 0 for `*` */
        char pattern[WHARF_NAME_MAX + 1];
};

struct wh_rules {
        bool open;
        bool groups, see; /* there are rules for groups; for WH_SEE */
        bool ids_partial; /* this user namespace cannot express all ids: the overflow id is nobody's (A4) */
        uid_t own_uid;
        uint32_t limit[WH_LIMITS];
        size_t n, room;
        struct rule *rule;
};

static const char *const action_names[WH_ACTIONS] = {"own", "use", "see"};
static const char *const limit_names[WH_LIMITS] = {"names", "waits", "watches", "connections", "tasks"};
static const uint32_t limit_default[WH_LIMITS] = {1 << 18, 1 << 16, 1 << 12, 1 << 16, 1 << 12};

#define OVERFLOW_ID 65534u /* the kernel's word for an id that it cannot express */

/* ---- asking ---- */

bool wh_pattern_fits(const char *pattern, const char *name)
{
        size_t len = strlen(pattern);
        if (len == 0 || !strcmp(pattern, "*"))
                return true;
        if (strchr("./:-_@", pattern[len - 1]) && !strncmp(pattern, name, len))
                return true;
        return !strcmp(pattern, name);
}

static bool is_him(const struct wh_rules *rs, const struct rule *r, const struct wh_who *who)
{
        switch (r->whom) {
        case WHOM_NOBODY:
                return false;
        case WHOM_ALL:
                return true;
        case WHOM_UID:
                return who->uid == r->id && who->uid != (uid_t)-1 && !(rs->ids_partial && r->id == OVERFLOW_ID);
        case WHOM_GID:
                break;
        }
        if (rs->ids_partial && r->id == OVERFLOW_ID)
                return false;
        if (who->gid == r->id && who->gid != (gid_t)-1)
                return true;
        for (uint32_t i = 0; i < who->n_groups && i < WH_WHO_GROUPS; i++)
                if (who->groups[i] == r->id)
                        return true;
        return false;
}

bool wh_rules_allow(const struct wh_rules *rs, enum wh_action action, const char *name, const struct wh_who *who,
                    uint32_t *ret_line)
{
        bool found = false, allowed = false;
        uint32_t longest = 0, line = 0;
        for (size_t i = 0; i < rs->n; i++) {
                const struct rule *r = &rs->rule[i];
                if (r->action != action || (found && r->len < longest) || !wh_pattern_fits(r->pattern, name))
                        continue;
                if (!found || r->len > longest)
                        allowed = false; /* A1: a longer pattern decides alone */
                found = true;
                longest = r->len;
                line = r->line;
                allowed = allowed || is_him(rs, r, who);
        }
        *ret_line = line;
        if (found)
                return allowed;
        return rs->open || action != WH_OWN || who->uid == rs->own_uid || who->uid == 0; /* A2 */
}

bool wh_rules_see_others(const struct wh_rules *rs, const struct wh_who *who)
{
        uint32_t line;
        return wh_rules_allow(rs, WH_SEE, "", who, &line);
}

bool wh_rules_restrict_see(const struct wh_rules *rs)
{
        return rs->see;
}

bool wh_rules_want_groups(const struct wh_rules *r)
{
        return r->groups;
}

uint32_t wh_rules_limit(const struct wh_rules *r, enum wh_limit limit)
{
        return r->limit[limit];
}

/* ---- reading ---- */

/* "0 0 4294967295" is the whole space of ids; any other map leaves some out. */
static bool ids_partial(void)
{
        char buf[256];
        int fd = wh_os_open("/proc/self/uid_map", O_RDONLY, 0);
        if (fd < 0)
                return false;
        ssize_t n = wh_os_read(fd, buf, sizeof buf - 1);
        wh_os_close(fd);
        if (n <= 0)
                return false;
        buf[n] = 0;
        unsigned long inside = 1, outside = 1, len = 0;
        return sscanf(buf, "%lu %lu %lu", &inside, &outside, &len) != 3 || inside || outside || len != UINT32_MAX;
}

struct wh_rules *wh_rules_new(bool open)
{
        struct wh_rules *r = wh_os_calloc(1, sizeof *r);
        if (!r)
                return NULL;
        r->open = open;
        r->own_uid = wh_os_geteuid();
        r->ids_partial = ids_partial();
        memcpy(r->limit, limit_default, sizeof r->limit);
        return r;
}

struct wh_rules *wh_rules_free(struct wh_rules *r)
{
        if (r)
                free(r->rule);
        free(r);
        return NULL;
}

static bool number(const char *text, uint32_t *ret)
{
        char *end;
        errno = 0;
        unsigned long long v = strtoull(text, &end, 10);
        if (*text < '0' || *text > '9' || *end || errno || v >= UINT32_MAX)
                return false;
        *ret = (uint32_t)v;
        return true;
}

struct place {
        const char *path;
        uint32_t line;
};

/* One word that says who: all, none, uid=, user=, gid=, group=. Numbers and names are taken by either. */
static int parse_whom(const struct place *at, const char *word, struct rule *ret)
{
        ret->id = 0;
        if (!strcmp(word, "all") || !strcmp(word, "none")) {
                ret->whom = *word == 'a' ? WHOM_ALL : WHOM_NOBODY;
                return 0;
        }
        const char *eq = strchr(word, '=');
        size_t len = eq ? (size_t)(eq - word) : 0;
        bool user = (len == 3 && !strncmp(word, "uid", 3)) || (len == 4 && !strncmp(word, "user", 4));
        bool group = (len == 3 && !strncmp(word, "gid", 3)) || (len == 5 && !strncmp(word, "group", 5));
        if (!user && !group)
                return wh_fail(-EINVAL, "%s:%u: '%s' is nobody; all, none, user=NAME, uid=N, group=NAME and gid=N are",
                               at->path, at->line, word);
        ret->whom = user ? WHOM_UID : WHOM_GID;
        if (number(eq + 1, &ret->id))
                return 0;
        const struct passwd *pw = user && eq[1] ? getpwnam(eq + 1) : NULL;
        const struct group *gr = group && eq[1] ? getgrnam(eq + 1) : NULL;
        if (!pw && !gr)
                return wh_fail(-EINVAL, "%s:%u: there is no %s '%s'", at->path, at->line, user ? "user" : "group",
                               eq + 1);
        ret->id = pw ? pw->pw_uid : gr->gr_gid;
        return 0;
}

static int rule_add(struct wh_rules *rs, const struct rule *r)
{
        if (rs->n == rs->room) {
                size_t room = rs->room ? rs->room * 2 : 16;
                struct rule *more = wh_os_realloc(rs->rule, room * sizeof *more);
                if (!more)
                        return wh_fail(wh_trace(-ENOMEM), NULL);
                rs->rule = more;
                rs->room = room;
        }
        rs->rule[rs->n++] = *r;
        rs->groups |= r->whom == WHOM_GID;
        rs->see |= r->action == WH_SEE;
        return 0;
}

static int parse_limit(const struct place *at, struct wh_rules *rs, char **word, unsigned n)
{
        if (n != 3)
                return wh_fail(-EINVAL, "%s:%u: a limit is: limit WHAT NUMBER", at->path, at->line);
        for (unsigned i = 0; i < WH_LIMITS; i++)
                if (!strcmp(word[1], limit_names[i])) {
                        uint32_t v;
                        if (!number(word[2], &v) || v < 1 || v > limit_default[i])
                                return wh_fail(-EINVAL, "%s:%u: '%s' is no number of %s between 1 and %u", at->path,
                                               at->line, word[2], word[1], limit_default[i]);
                        rs->limit[i] = v;
                        return 0;
                }
        return wh_fail(-EINVAL, "%s:%u: '%s' has no limit; names, waits, watches, connections and tasks have", at->path,
                       at->line, word[1]);
}

static int parse_line(const struct place *at, struct wh_rules *rs, char *text)
{
        char *word[WORDS_MAX], *save = NULL;
        unsigned n = 0;
        text[strcspn(text, "#")] = 0;
        for (char *w = strtok_r(text, " \t\r", &save); w; w = strtok_r(NULL, " \t\r", &save)) {
                if (n == WORDS_MAX)
                        return wh_fail(-EINVAL, "%s:%u: more than %d words", at->path, at->line, WORDS_MAX);
                word[n++] = w;
        }
        if (n == 0)
                return 0;
        if (!strcmp(word[0], "limit"))
                return parse_limit(at, rs, word, n);
        struct rule r = {.action = WH_ACTIONS, .line = at->line};
        for (unsigned a = 0; a < WH_ACTIONS; a++)
                if (!strcmp(word[0], action_names[a]))
                        r.action = (enum wh_action)a;
        if (r.action == WH_ACTIONS)
                return wh_fail(-EINVAL, "%s:%u: '%s' is no rule; own, use, see and limit are", at->path, at->line,
                               word[0]);
        if (n < 3)
                return wh_fail(-EINVAL, "%s:%u: a rule is: %s PATTERN WHO...", at->path, at->line, word[0]);
        if (strcmp(word[1], "*")) {
                r.len = (uint32_t)strlen(word[1]);
                if (!wh_names_valid(word[1], r.len))
                        return wh_fail(-EINVAL, "%s:%u: '%s' is neither a name nor the beginning of one", at->path,
                                       at->line, word[1]);
                memcpy(r.pattern, word[1], r.len + 1);
        }
        for (unsigned i = 2; i < n; i++) {
                int e = parse_whom(at, word[i], &r);
                if (e == 0)
                        e = rule_add(rs, &r);
                if (e < 0)
                        return e;
        }
        return 0;
}

/* The whole file, with a 0 behind it. Whoever can write to it decides who may do what, so only its owner may. */
static int read_file(const char *path, char **ret)
{
        int fd = wh_os_open(path, O_RDONLY | O_NONBLOCK, 0);
        if (fd < 0)
                return wh_fail(fd, "%s: %s", path, strerrordesc_np(-fd));
        struct stat st;
        int r = wh_os_fstat(fd, &st);
        if (r == 0 && !S_ISREG(st.st_mode))
                r = wh_fail(-EINVAL, "%s: no regular file", path);
        else if (r == 0 && ((st.st_uid != 0 && st.st_uid != wh_os_geteuid()) || st.st_mode & 022))
                r = wh_fail(-EACCES, "%s: others than root and user %u can write to it (owner %u, mode %04o)", path,
                            (unsigned)wh_os_geteuid(), (unsigned)st.st_uid, (unsigned)st.st_mode & 07777);
        else if (r == 0 && st.st_size > FILE_MAX_BYTES)
                r = wh_fail(-EINVAL, "%s: more than 1 MiB", path);
        char *text = r == 0 ? wh_os_malloc((size_t)st.st_size + 1) : NULL;
        if (r == 0 && !text)
                r = wh_fail(wh_trace(-ENOMEM), NULL);
        size_t len = 0;
        while (r == 0 && len < (size_t)st.st_size) {
                ssize_t n = wh_os_read(fd, text + len, (size_t)st.st_size - len);
                if (n == -EINTR)
                        continue;
                if (n < 0)
                        r = wh_fail((int)n, "%s: %s", path, strerrordesc_np((int)-n));
                if (n <= 0)
                        break;
                len += (size_t)n;
        }
        wh_os_close(fd);
        if (r == 0 && memchr(text, 0, len))
                r = wh_fail(-EINVAL, "%s: no text file", path);
        if (r < 0) {
                free(text);
                return r;
        }
        text[len] = 0;
        *ret = text;
        return 0;
}

int wh_rules_load(const char *path, struct wh_rules **ret)
{
        char *text = NULL;
        int r = read_file(path, &text);
        if (r < 0)
                return r;
        struct wh_rules *rs = wh_rules_new(false);
        if (!rs)
                r = wh_fail(wh_trace(-ENOMEM), NULL);
        struct place at = {.path = path};
        for (char *line = text, *next; r == 0 && line; line = next) {
                next = strchr(line, '\n');
                if (next)
                        *next++ = 0;
                at.line++;
                r = parse_line(&at, rs, line);
        }
        free(text);
        if (r < 0) {
                wh_rules_free(rs);
                return r;
        }
        *ret = rs;
        return 0;
}
