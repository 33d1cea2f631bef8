#include "wharfd/rules.h"
#include "test.h"
#include "wharf/task.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>

static const char *file_with(const char *text)
{
        static char path[300];
        snprintf(path, sizeof path, "%s/wharfd.conf", test_dir());
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        CHECK(fd >= 0);
        CHECK_EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        CHECK_EQ(fchmod(fd, 0600), 0);
        close(fd);
        return path;
}

static struct wh_rules *rules(const char *text)
{
        struct wh_rules *r = NULL;
        int e = wh_rules_load(file_with(text), &r);
        if (e < 0)
                test_fail(__FILE__, __LINE__, "%s", wharf_why());
        return r;
}

static bool may(const struct wh_rules *r, enum wh_action a, const char *name, uid_t uid, gid_t gid, uint32_t want_line)
{
        struct wh_who who = {.uid = uid, .gid = gid, .n_groups = 2, .groups = {77, 78}};
        uint32_t line = 12345;
        bool yes = wh_rules_allow(r, a, name, &who, &line);
        CHECK_EQ(line, want_line);
        return yes;
}

TEST(the_longest_pattern_decides_whatever_the_order_of_lines)
{
        struct wh_rules *r = rules("# who may what\n"
                                   "own org.example.log uid=5\n"
                                   "own org.example. uid=1000 gid=7   # two\n"
                                   "own org. uid=2000\n"
                                   "\n"
                                   "own * none\n"
                                   "use org.example. gid=78\n"
                                   "see * uid=1\n");
        CHECK(may(r, WH_OWN, "org.example.x", 1000, 1, 3));
        CHECK(may(r, WH_OWN, "org.example.x", 9, 7, 3));
        CHECK(!may(r, WH_OWN, "org.example.x", 2000, 1, 3)); /* the shorter one is not looked at */
        CHECK(may(r, WH_OWN, "org.other", 2000, 1, 4));
        CHECK(may(r, WH_OWN, "org.example.log", 5, 1, 2)); /* one name, not a beginning */
        CHECK(may(r, WH_OWN, "org.example.log2", 1000, 1, 3));
        CHECK(!may(r, WH_OWN, "org.example.log", 1000, 7, 2));
        CHECK(!may(r, WH_OWN, "com", 0, 0, 6));          /* root is no exception to a rule */
        CHECK(may(r, WH_USE, "org.example.x", 9, 9, 7)); /* by a supplementary group */
        CHECK(may(r, WH_USE, "com", 9, 9, 0));
        CHECK(!may(r, WH_SEE, "com", 9, 9, 8));
        wh_rules_free(r);
}

TEST(defaults_of_a_shared_and_of_a_private_domain)
{
        struct wh_rules *shared = wh_rules_new(false), *own = wh_rules_new(true);
        CHECK(may(shared, WH_OWN, "a", geteuid(), 1, 0));
        CHECK(may(shared, WH_OWN, "a", 0, 1, 0));
        CHECK(!may(shared, WH_OWN, "a", 4242, 1, 0));
        CHECK(!may(shared, WH_OWN, "a", (uid_t)-1, (gid_t)-1, 0)); /* nobody that the kernel knows */
        CHECK(may(shared, WH_USE, "a", 4242, 1, 0));
        CHECK(may(shared, WH_SEE, "a", (uid_t)-1, (gid_t)-1, 0));
        CHECK(may(own, WH_OWN, "a", 4242, 1, 0));
        wh_rules_free(shared);
        wh_rules_free(own);
}

TEST(an_unknown_user_is_only_ever_all)
{
        struct wh_rules *r = rules("own a. uid=4294967294\nown b. all\n");
        CHECK(!may(r, WH_OWN, "a.x", (uid_t)-1, (gid_t)-1, 1));
        CHECK(may(r, WH_OWN, "b.x", (uid_t)-1, (gid_t)-1, 2));
        wh_rules_free(r);
}

TEST(users_and_groups_by_name)
{
        const struct passwd *pw = getpwuid(0);
        if (!pw || strcmp(pw->pw_name, "root"))
                test_skip("there is no user root here");
        struct wh_rules *r = rules("own a. user=root\nuse a. group=root\nlimit names 10\n");
        CHECK(may(r, WH_OWN, "a.x", 0, 9, 1));
        CHECK(!may(r, WH_OWN, "a.x", 1, 0, 1));
        CHECK(may(r, WH_USE, "a.x", 9, 0, 2));
        CHECK_EQ(wh_rules_limit(r, WH_LIMIT_NAMES), 10);
        CHECK(wh_rules_want_groups(r));
        wh_rules_free(r);
}

/* Goal: what is wrong is said with its line, and nothing of such a file is believed. */
TEST(what_is_wrong_with_a_file_is_said)
{
        static const struct {
                const char *text, *why;
        } bad[] = {
                {"own org. uid=1\nown org. user=nobody-by-that-name\n", ":2: there is no user 'nobody-by-that-name'"},
                {"use a group=no-such-group", ":1: there is no group 'no-such-group'"},
                {"\n\nmay a all\n", ":3: 'may' is no rule"},
                {"own a\n", ":1: a rule is: own PATTERN WHO..."},
                {"own a b\n", ":1: 'b' is nobody"},
                {"own a uid\n", ":1: 'uid' is nobody"},
                {"own a uid=\n", ":1: there is no user ''"},
                {"own a uid=4294967295\n", ":1: there is no user '4294967295'"},
                {"own a|b all\n", ":1: 'a|b' is neither a name nor the beginning of one"},
                {"own ** all\n", ":1: '**' is neither"},
                {"limit names\n", ":1: a limit is"},
                {"limit names 0\n", ":1: '0' is no number of names"},
                {"limit names 1x\n", ":1: '1x' is no number"},
                {"limit names 99999999\n", ":1: '99999999' is no number"},
                {"limit doors 4\n", ":1: 'doors' has no limit"},
        };
        for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
                struct wh_rules *r = NULL;
                CHECK_EQ(wh_rules_load(file_with(bad[i].text), &r), -EINVAL);
                CHECK(!r);
                if (!strstr(wharf_why(), bad[i].why) || !strstr(wharf_why(), "wharfd.conf:"))
                        test_fail(__FILE__, __LINE__, "'%s' is not about '%s'", wharf_why(), bad[i].why);
        }
        struct wh_rules *r = NULL;
        CHECK_EQ(wh_rules_load("/nowhere/wharfd.conf", &r), -ENOENT);
        CHECK_EQ(wh_rules_load("/", &r), -EINVAL);
        const char *path = file_with("own a all\n");
        CHECK_EQ(chmod(path, 0666), 0);
        CHECK_EQ(wh_rules_load(path, &r), -EACCES);
        CHECK(strstr(wharf_why(), "0666"));
}

/* Goal: whatever bytes a file has, it is read or refused. */
TEST(noise_is_no_rules)
{
        static const char *const words[] = {"own", "use", "see", "limit", "*",  "a.", "uid=1", "gid=", "=",
                                            "all", "#",   "\n",  "names", "17", "\t", "none",  "\x80"};
        for (int i = 0; i < 2000; i++) {
                char text[600] = "";
                for (unsigned k = test_random() % 40; k; k--) {
                        strcat(text, words[test_random() % (sizeof words / sizeof *words)]);
                        strcat(text, test_random() % 3 ? " " : "\n");
                }
                struct wh_rules *r = NULL;
                int e = wh_rules_load(file_with(text), &r);
                CHECK(e == 0 || e == -EINVAL);
                struct wh_who who = {.uid = 1};
                uint32_t line;
                if (e == 0)
                        wh_rules_allow(r, WH_OWN, "a.b", &who, &line);
                wh_rules_free(r);
        }
}
