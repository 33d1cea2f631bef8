#include "os/lock.h"
#include "os/os.h"
#include "test.h"

#include <pthread.h>
#include <sys/resource.h>

static int refuse_memfd(enum wh_os_call call)
{
        return call == WH_OS_memfd_create ? -EMFILE : 0;
}

TEST(the_gate_refuses_one_call)
{
        wh_os_gate = refuse_memfd;
        CHECK_EQ(wh_os_memfd("x"), -EMFILE);
        wh_os_gate = NULL;
        int fd = wh_os_memfd("x");
        CHECK_GE(fd, 0);
        struct stat st;
        CHECK_EQ(wh_os_fstat(fd, &st), 0);
        CHECK_EQ(st.st_mode & 0777, 0600);
        CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
        CHECK_EQ(wh_os_close(fd), 0);
}

/* Goal: growing a memfd beyond RLIMIT_FSIZE is an error, not the signal SIGXFSZ. */
TEST(file_size_limit_is_an_error)
{
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){4096, 4096});
        int fd = wh_os_memfd("x");
        CHECK_EQ(wh_os_ftruncate(fd, 8192), -EFBIG);
        CHECK_EQ(wh_os_fallocate(fd, 0, 0, 8192), -EFBIG);
        CHECK_EQ(wh_os_ftruncate(fd, 4096), 0);
        char page[4096] = "";
        CHECK_EQ(wh_os_write_at(fd, page, sizeof page, 1), -EFBIG);
        CHECK_EQ(wh_os_write_at(fd, page, sizeof page, 0), sizeof page);
        wh_os_close(fd);
}

/* A kernel that undoes all of a fallocate() for each signal, and a signal that is there each time. */
static int interrupt_unless_blocked(enum wh_os_call call)
{
        sigset_t now;
        static int tries;
        if (call != WH_OS_fallocate)
                return 0;
        if (tries++ > 100)
                return -ELOOP;
        pthread_sigmask(SIG_SETMASK, NULL, &now);
        return sigismember(&now, SIGALRM) ? 0 : -EINTR;
}

/*
 * Goal: a timer that is faster than a large memory is made does not keep it from being made; then signals come again.
 */
TEST(signals_do_not_keep_memory_from_being_made)
{
        sigset_t after;
        int fd = wh_os_memfd("x");
        wh_os_gate = interrupt_unless_blocked;
        CHECK_EQ(wh_os_fallocate(fd, 0, 0, 8192), 0);
        wh_os_gate = NULL;
        struct stat st;
        CHECK_EQ(wh_os_fstat(fd, &st), 0);
        CHECK_EQ(st.st_size, 8192);
        CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
        CHECK(!sigismember(&after, SIGALRM));
        wh_os_close(fd);
}

static int child_sees_no_private_fd(void *arg)
{
        int *fds = arg;
        return fcntl(fds[0], F_GETFD) >= 0 || fcntl(fds[1], F_GETFD) < 0;
}

/* Goal: a forked child does not keep a private descriptor alive, and keeps the others. */
TEST(private_descriptors_stay_out_of_forked_children)
{
        int fds[2] = {wh_os_memfd("private"), wh_os_memfd("plain")};
        wh_os_fd_private(fds[0]);
        CHECK_EQ(test_wait(test_fork(child_sees_no_private_fd, fds)), 0);
        wh_os_close(fds[0]);
        /* Closed here: the same number, used again, is no longer private. */
        int again = wh_os_memfd("again");
        CHECK_EQ(again, fds[0]);
        int swapped[2] = {-1, again};
        CHECK_EQ(test_wait(test_fork(child_sees_no_private_fd, swapped)), 0);
        wh_os_close(again);
        wh_os_close(fds[1]);
}

static struct wh_lock lock;
static long counter;

static void *count_up(void *arg)
{
        for (int i = 0; i < 200000; i++) {
                wh_lock(&lock);
                counter++;
                wh_unlock(&lock);
        }
        return NULL;
}

TEST(lock_excludes)
{
        pthread_t t[4];
        for (int i = 0; i < 4; i++)
                pthread_create(&t[i], NULL, count_up, NULL);
        for (int i = 0; i < 4; i++)
                pthread_join(t[i], NULL);
        CHECK_EQ(counter, 800000);
        CHECK_EQ(atomic_load(&lock.word), WH_LOCK_FREE);
}

TEST(waits_end_at_their_deadline)
{
        int ep = wh_os_epoll();
        struct epoll_event ev;
        CHECK_EQ(wh_os_epoll_wait(ep, &ev, 1, wh_os_now_ns() + 2000000), 0);
        CHECK_EQ(wh_os_epoll_wait(ep, &ev, 1, 1), 0); /* long past */
        _Atomic uint32_t word = 5;
        CHECK_EQ(wh_os_futex_wait(&word, 4, WH_NEVER, false), -EAGAIN);
        CHECK_EQ(wh_os_futex_wait(&word, 5, wh_os_now_ns() + 1000000, false), -ETIMEDOUT);
        wh_os_close(ep);
}

static int swapped_fd, ended_fd, kept_fd;

/*
 * The kernel's two looks, one at a time: the first is given a socket that has ended, as it is with a peer that sends
 * and closes behind the look into the queue; the next one is given the socket itself, in which the peer's last words
 * lie.
 */
static int send_and_close_between_the_looks(enum wh_os_call call)
{
        if (call != WH_OS_recvmsg)
                return 0;
        if (kept_fd < 0) {
                kept_fd = dup(swapped_fd);
                CHECK_GE(dup2(ended_fd, swapped_fd), 0);
        } else if (ended_fd >= 0) {
                CHECK_GE(dup2(kept_fd, swapped_fd), 0);
                close(kept_fd);
                close(ended_fd);
                ended_fd = -1;
        }
        return 0;
}

/* Goal: os.O6, also where the peer sends and closes while the kernel looks. */
TEST(the_end_of_a_socket_is_told_behind_what_was_sent_before_it)
{
        int sv[2], over[2];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        CHECK_EQ(wh_os_socketpair(over), 0);
        CHECK_EQ(send(sv[1], "last words", 10, 0), 10);
        close(sv[1]);
        close(over[1]);
        swapped_fd = sv[0];
        ended_fd = over[0];
        kept_fd = -1;
        char buf[16], control[64];
        struct iovec iov = {buf, sizeof buf};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        wh_os_gate = send_and_close_between_the_looks;
        CHECK_EQ(wh_os_recvmsg(sv[0], &m, 0), 10);
        wh_os_gate = NULL;
        CHECK_MEM(buf, "last words", 10);
        CHECK_EQ(wh_os_recvmsg(sv[0], &m, 0), 0);
        close(sv[0]);
}

TEST(a_detached_child_gets_its_descriptors_in_order)
{
        int p[2][2];
        CHECK(pipe(p[0]) == 0 && pipe(p[1]) == 0);
        char *argv[] = {(char *)"sh", (char *)"-c", (char *)"echo a$X >&4; echo b >&3", NULL};
        char *env[] = {(char *)"X=yz", NULL};
        CHECK_EQ(wh_os_spawn_detached(argv, (int[]){p[0][1], p[1][1]}, 2, env, true, -1), 0);
        for (int i = 0; i < 2; i++)
                close(p[i][1]);
        char buf[8] = {0};
        CHECK_EQ(read(p[0][0], buf, 8), 2);
        CHECK_MEM(buf, "b\n", 2);
        CHECK_EQ(read(p[1][0], buf, 8), 4);
        CHECK_MEM(buf, "ayz\n", 4);
        close(p[0][0]);
        close(p[1][0]);
}
