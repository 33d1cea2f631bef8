/*
 * rules - who may do what with which names: what a domain's configuration says.
 *
 *      own   org.example.   user=alice gid=100     register names that begin so
 *      use   org.example.   group=users            look them up
 *      see   *              all                    have them listed, and watch them
 *      limit names          4096                   how many there may be, of all users
 *
 * A pattern that ends in one of . / : - _ @ stands for all names that begin with it, `*` for all names, anything else
 * for that one name.
 *
 * Always true:
 *   A1  Of the rules for one action, those with the longest pattern that fits the name decide, together, and no
 *       others: whoever one of them names may, everybody else may not. So the order of lines never matters.
 *   A2  Where no pattern fits, a default decides: `own` is for the user that wharfd runs as and for root, `use` and
 *       `see` are for all.
 *   A3  A file is believed whole or not at all. Users and groups are looked up when it is read, never later.
 *   A4  Who asks is what the kernel said. An id that the kernel cannot express here (of another user namespace) is
 *       nobody's: only `all` fits it.
 */
#ifndef WH_WHARFD_RULES_H
#define WH_WHARFD_RULES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum wh_action { WH_OWN, WH_USE, WH_SEE, WH_ACTIONS };
enum wh_limit { WH_LIMIT_NAMES, WH_LIMIT_WAITS, WH_LIMIT_WATCHES, WH_LIMIT_CONNECTIONS, WH_LIMIT_TASKS, WH_LIMITS };

enum { WH_WHO_GROUPS = 64 }; /* supplementary groups that are looked at */
struct wh_who {
        uid_t uid; /* (uid_t)-1: unknown */
        gid_t gid;
        uint32_t n_groups;
        gid_t groups[WH_WHO_GROUPS];
};

struct wh_rules;

/*
 * What holds without a file. `open`: everybody who can connect may do everything (a user's own domain). NULL: -ENOMEM
 */
struct wh_rules *wh_rules_new(bool open);
/*
 * Read a file. On failure wharf_why() says where and what: "FILE:LINE: why".
 * Errors: -ENOENT, -EACCES (others can write to it), -EINVAL, -ENOMEM, ...
 */
int wh_rules_load(const char *path, struct wh_rules **ret);
struct wh_rules *wh_rules_free(struct wh_rules *r);

/* May it? *ret_line: of the rules that decided, the last one; 0 for the default. */
bool wh_rules_allow(const struct wh_rules *r, enum wh_action action, const char *name, const struct wh_who *who,
                    uint32_t *ret_line);
/*
 * May it see names that no rule speaks of but one for `*`? Then it also sees tasks of others, which have no name; but
 * not what it may not see in them.
 */
bool wh_rules_see_others(const struct wh_rules *r, const struct wh_who *who);
/* Is there any rule for WH_SEE, so that it is worth asking? */
bool wh_rules_restrict_see(const struct wh_rules *r);
/* Does any rule name a group, so that they are worth asking for? */
bool wh_rules_want_groups(const struct wh_rules *r);
uint32_t wh_rules_limit(const struct wh_rules *r, enum wh_limit limit);

/* Does the pattern stand for this name? "" stands for all, like "*". */
bool wh_pattern_fits(const char *pattern, const char *name);

#endif
