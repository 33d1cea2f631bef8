/* wharfd.conf: the whole input is the file. What is accepted decides about anybody without a crash. */
#include "fuzz.h"
#include "wharfd/rules.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void fuzz_one(struct fuzz_in *in)
{
        char path[64];
        size_t len = (size_t)(in->end - in->at);
        int fd = memfd_create("rules", MFD_CLOEXEC);
        FUZZ_CHECK(fd >= 0 && fchmod(fd, 0600) == 0 && write(fd, in->at, len) == (ssize_t)len);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        struct wh_rules *r = NULL;
        int err = wh_rules_load(path, &r);
        close(fd);
        FUZZ_CHECK(err <= 0 && (err == 0) == (r != NULL));
        if (!r)
                return;
        static const char *const names[] = {"a", "org.example.x", "log/", "zz-top:9@host"};
        struct wh_who who = {.uid = 1000, .gid = 1000, .n_groups = 2, .groups = {100, 4}};
        for (unsigned i = 0; i < 4; i++)
                for (unsigned a = 0; a < WH_ACTIONS; a++) {
                        uint32_t line = 0;
                        bool once = wh_rules_allow(r, (enum wh_action)a, names[i], &who, &line);
                        FUZZ_CHECK(once == wh_rules_allow(r, (enum wh_action)a, names[i], &who, &line));
                        FUZZ_CHECK(line <= len + 1);
                        wh_rules_allow(r, (enum wh_action)a, names[i], &(struct wh_who){.uid = (uid_t)-1}, &line);
                }
        for (unsigned l = 0; l < WH_LIMITS; l++)
                wh_rules_limit(r, (enum wh_limit)l);
        wh_rules_want_groups(r);
        wh_rules_free(r);
}

void fuzz_seeds(void)
{
        static const char all[] = "# who may\nown org.example. user=root gid=100\nuse org.example. uid=1000\n"
                                  "see * all\nlimit names 4096\nlimit waits 10\n";
        static const char odd[] =
                "own * all\nuse a user=nobody group=root\n\nlimit connections 16\nlimit watches 1 # x";
        fuzz_seed("all", all, sizeof all - 1);
        fuzz_seed("odd", odd, sizeof odd - 1);
}
