/*
 * Several copies of the library in one process: they share nothing and exchange messages and rights like processes.
 *
 * This program is linked with none, and exports functions of the library's names that abort (copies_decoys.c): a copy
 * that called one public function of its own through the dynamic linker would land here, or in whichever copy was
 * loaded first.
 */
#include "hub.h"

#include <dlfcn.h>
#include <pthread.h>

struct copy {
        void *dl;
        __typeof__(wharf_task_open) *task_open;
        __typeof__(wharf_task_close) *task_close;
        __typeof__(wharf_port_new) *port_new;
        __typeof__(wharf_port_listen) *port_listen;
        __typeof__(wharf_right_connect) *right_connect;
        __typeof__(wharf_right_new) *right_new;
        __typeof__(wharf_sendmsg) *sendmsg;
        __typeof__(wharf_send) *send;
        __typeof__(wharf_recvmsg) *recvmsg;
        __typeof__(wharf_recv) *recv;
        __typeof__(wharf_drop) *drop;
        __typeof__(wharf_why) *why;
};

static struct copy copy_of(void *dl)
{
        if (!dl)
                test_fail(__FILE__, __LINE__, "%s", dlerror());
        struct copy c = {.dl = dl};
#define SYM(name) CHECK((c.name = (__typeof__(c.name))dlsym(dl, "wharf_" #name)) != NULL)
        SYM(task_open);
        SYM(task_close);
        SYM(port_new);
        SYM(port_listen);
        SYM(right_connect);
        SYM(right_new);
        SYM(sendmsg);
        SYM(send);
        SYM(recvmsg);
        SYM(recv);
        SYM(drop);
        SYM(why);
#undef SYM
        return c;
}

/* The same library from another path is another copy. */
static struct copy copy_from_elsewhere(void)
{
        char path[128], cmd[512];
        static int number;
        snprintf(path, sizeof path, "%s/libwharf-%d.so", test_dir(), number++);
        snprintf(cmd, sizeof cmd, "cp '%s' '%s'", LIBWHARF, path);
        CHECK_EQ(system(cmd), 0);
        return copy_of(dlopen(path, RTLD_NOW | RTLD_LOCAL));
}

static struct copy copy_first(void)
{
        return copy_of(dlopen(LIBWHARF, RTLD_NOW | RTLD_GLOBAL));
}

struct meeting {
        wharf_task *task;
        wharf_name port;
        int fd;
        char path[96];
};

static struct meeting meeting_open(const struct copy *c)
{
        static int number;
        struct meeting m = {.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        snprintf(m.path, sizeof m.path, "%s/meet.%d", test_dir(), number++);
        memcpy(sa.sun_path, m.path, sizeof m.path);
        CHECK_EQ(bind(m.fd, (struct sockaddr *)&sa, sizeof sa), 0);
        CHECK_EQ(listen(m.fd, 16), 0);
        CHECK_EQ(c->task_open(NULL, &m.task), 0);
        CHECK_EQ(c->port_new(m.task, NULL, &m.port), 0);
        CHECK_EQ(c->port_listen(m.task, m.port, m.fd), 0);
        return m;
}

static void meeting_close(const struct copy *c, struct meeting *m)
{
        c->task_close(m->task);
        close(m->fd);
}

/* Messages until the lane is attached and beyond, and a right that comes back with one. */
static void exchange(const struct copy *a, const struct copy *b)
{
        struct meeting meet = meeting_open(a);
        wharf_task *t;
        wharf_name to, port;
        CHECK_EQ(b->task_open(NULL, &t), 0);
        CHECK_EQ(b->right_connect(t, meet.path, &to), 0);
        CHECK_EQ(b->port_new(t, NULL, &port), 0);
        char text[2048];
        for (unsigned i = 0; i < 200; i++) {
                memset(text, (int)i, sizeof text);
                CHECK_EQ(b->send(t, to, text, 1 + i * 10, 0), i == 1 ? -EAGAIN : 0);
                if (i == 0) {
                        /* The owner greets those who connected when it looks. */
                        CHECK_EQ(a->recv(meet.task, meet.port, text, sizeof text, NULL, WHARF_FOREVER), 1);
                        i = 1;
                        continue;
                }
                CHECK_EQ(a->recv(meet.task, meet.port, text, sizeof text, NULL, WHARF_FOREVER), 1 + i * 10);
                CHECK_EQ(text[i * 10], (char)i);
        }
        struct wharf_item give = {.kind = WHARF_MAKE_SEND, .name = port}, got;
        struct wharf_msg m = MSG(.items = &give, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(b->sendmsg(t, to, &m, WHARF_FOREVER), 0);
        CHECK_EQ(a->recvmsg(meet.task, meet.port, &r, WHARF_FOREVER), 0);
        CHECK_EQ(got.kind, WHARF_GOT_SEND);
        CHECK_EQ(a->send(meet.task, got.name, "back", 4, WHARF_FOREVER), 0);
        CHECK_EQ(b->recv(t, port, text, sizeof text, NULL, WHARF_FOREVER), 4);
        /* What one says about its last failure is not what the other says. */
        CHECK_EQ(a->drop(meet.task, got.name), 0);
        CHECK_EQ(a->drop(meet.task, got.name), -EBADF);
        CHECK_EQ(b->right_connect(t, "/nowhere/at/all", &to), -ENOENT);
        CHECK(strstr(b->why(), "/nowhere/at/all") != NULL);
        CHECK(*a->why() != 0 && strstr(a->why(), "/nowhere/at/all") == NULL);
        b->task_close(t);
        meeting_close(a, &meet);
}

TEST(two_shared_copies_in_one_process_exchange_messages_and_rights)
{
        struct copy a = copy_first(), b = copy_from_elsewhere();
        CHECK(a.send != b.send);
        exchange(&a, &b);
        exchange(&b, &a);
}

TEST(a_copy_in_a_linker_namespace_of_its_own_exchanges_messages_and_rights)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
        test_skip("a sanitizer cannot be loaded twice");
#endif
        void *dl = dlmopen(LM_ID_NEWLM, LIBWHARF, RTLD_NOW);
        struct copy a = copy_first(), b = copy_of(dl);
        CHECK(a.send != b.send);
        exchange(&a, &b);
        exchange(&b, &a);
}

static const struct copy *host;

static void *host_run(void *arg)
{
        struct meeting *meet = arg;
        char text[16];
        struct wharf_item got;
        struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text, .items = &got, .cap_items = 1);
        CHECK_EQ(host->recvmsg(meet->task, meet->port, &m, WHARF_FOREVER), 0);
        CHECK_MEM(text, "plug!", 5);
        CHECK_EQ(host->send(meet->task, got.name, "host", 4, WHARF_FOREVER), 0);
        return NULL;
}

TEST(a_plug_in_with_a_static_copy_uses_its_own_and_talks_to_the_hosts)
{
        struct copy a = copy_first();
        void *plugin = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
        if (!plugin)
                test_fail(__FILE__, __LINE__, "%s", dlerror());
        int (*talk)(const char *) = (int (*)(const char *))dlsym(plugin, "plugin_talk");
        CHECK(talk != NULL);
        struct meeting meet = meeting_open(&a);
        pthread_t thread;
        host = &a;
        CHECK_EQ(pthread_create(&thread, NULL, host_run, &meet), 0);
        CHECK_EQ(talk(meet.path), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        meeting_close(&a, &meet);
        CHECK_EQ(dlclose(plugin), 0);
}

static int no_more_than(void *arg)
{
        /* close() of what the copies had open must have happened before fork() returned here. */
        return count_fds() == *(unsigned *)arg ? 0 : 1;
}

TEST(every_copy_closes_its_descriptors_in_a_forked_child)
{
        struct copy a = copy_first(), b = copy_from_elsewhere();
        unsigned before = count_fds();
        wharf_task *ta, *tb;
        wharf_name port, right;
        CHECK_EQ(a.task_open(NULL, &ta), 0);
        CHECK_EQ(a.port_new(ta, NULL, &port), 0);
        CHECK_EQ(a.right_new(ta, port, &right), 0);
        CHECK_EQ(b.task_open(NULL, &tb), 0);
        CHECK_EQ(b.port_new(tb, NULL, &port), 0);
        CHECK_EQ(b.right_new(tb, port, &right), 0);
        CHECK(count_fds() > before);
        CHECK_EQ(test_wait(test_fork(no_more_than, &before)), 0);
        /* ... and the parent's go on. */
        CHECK_EQ(b.send(tb, right, "x", 1, 0), 0);
        CHECK_EQ(b.recv(tb, port, (char[4]){0}, 4, NULL, 0), 1);
        a.task_close(ta);
        b.task_close(tb);
        CHECK_EQ(count_fds(), before);
}

TEST(fork_after_a_copy_was_unloaded_calls_nothing_of_it)
{
        struct copy b = copy_from_elsewhere();
        wharf_task *t;
        wharf_name port;
        CHECK_EQ(b.task_open(NULL, &t), 0);
        CHECK_EQ(b.port_new(t, NULL, &port), 0);
        b.task_close(t);
        void *at = (void *)b.send;
        Dl_info info;
        CHECK(dladdr(at, &info) != 0);
        CHECK_EQ(dlclose(b.dl), 0);
        CHECK_EQ(dladdr(at, &info), 0); /* it is gone indeed */
        unsigned now = count_fds();
        for (int i = 0; i < 3; i++)
                CHECK_EQ(test_wait(test_fork(no_more_than, &now)), 0);
}
