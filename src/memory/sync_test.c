#include "memory/exec_testing.h"
#include "memory/mutex.h"
#include "os/os.h"
#include "test.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* What the parties of these tests share. */
static struct shared {
        wharf_mutex mutex;
        wharf_sem sem;
        wharf_event event;
        _Atomic uint32_t step;
        uint64_t a, b; /* guarded by mutex: equal whenever it is free */
        _Atomic int answers[8];
} * sh;

static int64_t in_ms(int64_t ms)
{
        return wh_os_now_ns() + ms * 1000000;
}

static void wait_for_step(uint32_t step)
{
        uint32_t is;
        while ((is = atomic_load(&sh->step)) < step)
                wh_os_futex_wait(&sh->step, is, WH_NEVER, true);
}

static void set_step(uint32_t step)
{
        atomic_store(&sh->step, step);
        wh_os_futex_wake(&sh->step, INT32_MAX, true);
}

TEST(task_ids_tell_processes_apart)
{
        test_need_proc();
        uint64_t me = wh_task_self();
        CHECK_EQ(wh_task_pid(me), getpid());
        CHECK(wh_task_alive(me));
        CHECK(wh_task_alive(wh_task_self() & ~(uint64_t)0));
        CHECK(!wh_task_alive(0));
        /* The same pid with another number is a process that is gone; in pidfs, in time, or by the place of its lock.
         */
        uint64_t parent = (uint64_t)getppid();
        CHECK(wh_task_alive(parent));
        CHECK(!wh_task_alive(parent | (uint64_t)0xfffffff0 << 32));
        CHECK(!wh_task_alive(parent | WH_TASK_BY_START | (uint64_t)0xfffffff0 << 32));
        if (me & WH_TASK_BY_LOCK)
                CHECK(!wh_task_alive((me & ~(uint64_t)WH_TASK_PID_MASK) | parent));
        char path[64], line[1024], *p;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)getppid());
        FILE *f = fopen(path, "re");
        CHECK(f && fgets(line, sizeof line, f) && (p = strrchr(line, ')')));
        fclose(f);
        unsigned long long start;
        CHECK_EQ(
                sscanf(p, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &start),
                1);
        CHECK(wh_task_alive(parent | WH_TASK_BY_START | (uint64_t)(uint32_t)start << 32));
        CHECK(!wh_task_alive(parent | WH_TASK_BY_START | (uint64_t)(uint32_t)(start + 1) << 32));
}

static int store_self(void *arg)
{
        *(uint64_t *)arg = wh_task_self();
        return 0;
}

/* Goal: a child has an id of its own, and is dead as soon as it has exited, reaped or not. */
TEST(task_zombie_is_dead)
{
        uint64_t *id = test_shared(4096);
        wh_task_self();
        pid_t pid = test_fork(store_self, id);
        siginfo_t si;
        CHECK_EQ(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0);
        CHECK_EQ(wh_task_pid(*id), pid);
        CHECK(!wh_task_alive(*id));
        CHECK_EQ(test_wait(pid), 0);
        CHECK(!wh_task_alive(*id));
        munmap(id, 4096);
}

TEST(mutex_answers)
{
        wharf_mutex m;
        CHECK_EQ(wharf_mutex_init(&m), 0);
        CHECK_EQ(wharf_mutex_unlock(&m), -EPERM);
        CHECK_EQ(wharf_mutex_holder(&m), 0);
        CHECK_EQ(wharf_mutex_lock(&m, 0), 0);
        CHECK_EQ(wharf_mutex_holder(&m), getpid());
        CHECK_EQ(wharf_mutex_lock(&m, 0), -EDEADLK);
        CHECK_EQ(wharf_mutex_lock(&m, WHARF_FOREVER), -EDEADLK);
        CHECK_EQ(wharf_mutex_unlock(&m), 0);
        CHECK_EQ(wharf_mutex_unlock(&m), -EPERM);
}

static int count_under_lock(void *arg)
{
        for (int i = 0; i < 20000; i++) {
                if (wharf_mutex_lock(&sh->mutex, WHARF_FOREVER) != 0)
                        return 1;
                sh->a++;
                sh->b++;
                if (sh->a != sh->b || wharf_mutex_unlock(&sh->mutex) != 0)
                        return 2;
        }
        return 0;
}

TEST(mutex_excludes_processes)
{
        sh = test_shared(sizeof *sh);
        pid_t pid[4];
        for (int i = 0; i < 4; i++)
                pid[i] = test_fork(count_under_lock, NULL);
        for (int i = 0; i < 4; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
        CHECK_EQ(sh->a, 80000);
        CHECK_EQ(wharf_mutex_holder(&sh->mutex), 0);
}

static void *count_in_thread(void *arg)
{
        return (void *)(intptr_t)count_under_lock(arg);
}

TEST(mutex_excludes_threads)
{
        sh = test_shared(sizeof *sh);
        pthread_t t[3];
        for (int i = 0; i < 3; i++)
                pthread_create(&t[i], NULL, count_in_thread, NULL);
        for (int i = 0; i < 3; i++) {
                void *r;
                pthread_join(t[i], &r);
                CHECK_EQ((intptr_t)r, 0);
        }
        CHECK_EQ(sh->b, 60000);
}

static int lock_and_say(void *arg)
{
        int r = wharf_mutex_lock(&sh->mutex, WHARF_FOREVER);
        if (r < 0)
                return 1;
        set_step(1);
        pause();
        return 0;
}

/*
 * Goal: the kernel's word about a holder, not a time-out: stopped is alive, killed is dead, and the next one is told.
 */
TEST(mutex_tells_of_a_dead_holder)
{
        sh = test_shared(sizeof *sh);
        pid_t pid = test_fork(lock_and_say, NULL);
        wait_for_step(1);
        CHECK_EQ(wharf_mutex_holder(&sh->mutex), pid);
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, 0), -EAGAIN);
        kill(pid, SIGSTOP);
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, in_ms(60)), -ETIMEDOUT);
        kill(pid, SIGKILL);
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, WHARF_FOREVER), WHARF_HOLDER_DIED);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        CHECK_EQ(wharf_mutex_unlock(&sh->mutex), 0);
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, 0), 0);
        CHECK_EQ(wharf_mutex_unlock(&sh->mutex), 0);
}

/* Goal: a rescuer that dies inside does not make the death forgotten. */
TEST(mutex_tells_again_when_the_rescuer_dies)
{
        sh = test_shared(sizeof *sh);
        for (int i = 0; i < 2; i++) {
                atomic_store(&sh->step, 0);
                pid_t pid = test_fork(lock_and_say, NULL);
                wait_for_step(1);
                kill(pid, SIGKILL);
                test_wait(pid);
        }
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, 0), WHARF_HOLDER_DIED);
}

/* Goal: whatever the bytes of a lock are, it is taken or refused, never waited for in vain. */
TEST(mutex_with_garbage_is_a_dead_holder)
{
        for (int i = 0; i < 2000; i++) {
                wharf_mutex m = {{test_random() | 1, test_random(), 0, 0}};
                if ((m.opaque[0] & WH_TASK_PID_MASK) == (uint64_t)getpid())
                        continue;
                int r = wharf_mutex_lock(&m, 0);
                CHECK(r == 0 || r == WHARF_HOLDER_DIED || r == -EAGAIN);
                if (r >= 0)
                        CHECK_EQ(wharf_mutex_unlock(&m), 0);
        }
}

static int lock_later(void *arg)
{
        set_step(1);
        return wharf_mutex_lock(&sh->mutex, WHARF_FOREVER);
}

/* Goal: a sleeper wakes when the holder unlocks, and when it dies while others sleep. */
TEST(mutex_sleepers_outlive_the_holder)
{
        sh = test_shared(sizeof *sh);
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, 0), 0);
        pid_t pid = test_fork(lock_later, NULL);
        wait_for_step(1);
        usleep(1000);
        CHECK_EQ(wharf_mutex_unlock(&sh->mutex), 0);
        CHECK_EQ(test_wait(pid), 0);
        /* That child died holding it. */
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, WHARF_FOREVER), WHARF_HOLDER_DIED);
}

static int refuse_to_sleep(enum wh_os_call call)
{
        return call == WH_OS_futex_wait ? -ENOMEM : 0;
}

static int lock_without_sleep(void *arg)
{
        wh_os_gate = refuse_to_sleep;
        set_step(1);
        if (wharf_mutex_lock(&sh->mutex, in_ms(3)) != -ETIMEDOUT)
                return 1;
        set_step(2);
        return wharf_mutex_lock(&sh->mutex, WHARF_FOREVER);
}

/* Goal: a kernel that refuses to let us sleep costs time, not the lock. */
TEST(mutex_without_sleep)
{
        sh = test_shared(sizeof *sh);
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, 0), 0);
        pid_t pid = test_fork(lock_without_sleep, NULL);
        wait_for_step(2);
        CHECK_EQ(wharf_mutex_unlock(&sh->mutex), 0);
        CHECK_EQ(test_wait(pid), 0);
}

TEST(sem_counts)
{
        sh = test_shared(sizeof *sh);
        CHECK_EQ(wharf_sem_init(&sh->sem, (uint32_t)INT32_MAX + 1, 0), -EINVAL);
        CHECK_EQ(wharf_sem_init(&sh->sem, 2, 8), -EINVAL);
        for (uint32_t flags = 0; flags <= WHARF_SEM_OWNED; flags++) {
                CHECK_EQ(wharf_sem_init(&sh->sem, 2, flags), 0);
                CHECK_EQ(wharf_sem_take(&sh->sem, 0), 0);
                CHECK_EQ(wharf_sem_take(&sh->sem, in_ms(1)), 0);
                CHECK_EQ(wharf_sem_units(&sh->sem), 0);
                CHECK_EQ(wharf_sem_take(&sh->sem, 0), -EAGAIN);
                CHECK_EQ(wharf_sem_take(&sh->sem, in_ms(5)), -ETIMEDOUT);
                CHECK_EQ(wharf_sem_give(&sh->sem), 0);
                CHECK_EQ(wharf_sem_give(&sh->sem), 0);
                CHECK_EQ(wharf_sem_units(&sh->sem), 2);
        }
        CHECK_EQ(wharf_sem_give(&sh->sem), -EPERM);
        CHECK_EQ(wharf_sem_init(&sh->sem, INT32_MAX, 0), 0);
        CHECK_EQ(wharf_sem_give(&sh->sem), -EOVERFLOW);
}

static int produce(void *arg)
{
        for (int i = 0; i < 20000; i++)
                if (wharf_sem_give(&sh->sem) != 0)
                        return 1;
        return 0;
}

static int consume(void *arg)
{
        for (int i = 0; i < 20000; i++)
                if (wharf_sem_take(&sh->sem, WHARF_FOREVER) != 0)
                        return 1;
        return 0;
}

TEST(sem_wakes_consumers)
{
        sh = test_shared(sizeof *sh);
        CHECK_EQ(wharf_sem_init(&sh->sem, 0, 0), 0);
        pid_t pid[4] = {test_fork(consume, NULL), test_fork(consume, NULL), test_fork(produce, NULL),
                        test_fork(produce, NULL)};
        for (int i = 0; i < 4; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
        CHECK_EQ(wharf_sem_units(&sh->sem), 0);
}

static int hold_two(void *arg)
{
        if (wharf_sem_take(&sh->sem, 0) != 0 || wharf_sem_take(&sh->sem, 0) != 0)
                return 1;
        set_step(1);
        pause();
        return 0;
}

/* Goal: what a dead task held returns, once, and the next taker is told, once. */
TEST(sem_units_of_the_dead_return)
{
        sh = test_shared(sizeof *sh);
        CHECK_EQ(wharf_sem_init(&sh->sem, 3, WHARF_SEM_OWNED), 0);
        pid_t pid = test_fork(hold_two, NULL);
        wait_for_step(1);
        CHECK_EQ(wharf_sem_take(&sh->sem, 0), 0);
        CHECK_EQ(wharf_sem_take(&sh->sem, 0), -EAGAIN);
        kill(pid, SIGKILL);
        CHECK_EQ(wharf_sem_take(&sh->sem, WHARF_FOREVER), WHARF_HOLDER_DIED);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        CHECK_EQ(wharf_sem_take(&sh->sem, 0), 0);
        CHECK_EQ(wharf_sem_take(&sh->sem, 0), -EAGAIN);
}

static int take_one(void *arg)
{
        return wharf_sem_take(&sh->sem, 0);
}

/* Goal: the table of holders is as large as promised, and makes room when one is dead. */
TEST(sem_holders_are_limited)
{
        sh = test_shared(sizeof *sh);
        CHECK_EQ(wharf_sem_init(&sh->sem, 1000, WHARF_SEM_OWNED), 0);
        for (int i = 0; i < WHARF_SEM_HOLDERS_MAX + 3; i++) {
                int r = test_wait(test_fork(take_one, NULL));
                CHECK(r == 0 || r == WHARF_HOLDER_DIED);
        }
}

static int wait_for_change(void *arg)
{
        for (;;) {
                uint32_t key = wharf_event_key(&sh->event);
                wharf_mutex_lock(&sh->mutex, WHARF_FOREVER);
                uint64_t a = sh->a;
                wharf_mutex_unlock(&sh->mutex);
                if (a == 1000)
                        return 0;
                if (wharf_event_wait(&sh->event, key, WHARF_FOREVER) != 0)
                        return 1;
        }
}

TEST(event_is_seen_by_all)
{
        sh = test_shared(sizeof *sh);
        CHECK_EQ(wharf_event_wait(&sh->event, wharf_event_key(&sh->event), 0), -EAGAIN);
        CHECK_EQ(wharf_event_wait(&sh->event, wharf_event_key(&sh->event), in_ms(2)), -ETIMEDOUT);
        CHECK_EQ(wharf_event_wait(&sh->event, wharf_event_key(&sh->event) + 2, WHARF_FOREVER), 0);
        pid_t pid[3];
        for (int i = 0; i < 3; i++)
                pid[i] = test_fork(wait_for_change, NULL);
        for (int i = 0; i < 1000; i++) {
                wharf_mutex_lock(&sh->mutex, WHARF_FOREVER);
                sh->a++;
                wharf_mutex_unlock(&sh->mutex);
                wharf_event_wake(&sh->event);
        }
        for (int i = 0; i < 3; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
}

/* ---- exec() ---- */

static int hold_both(void *arg)
{
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, 0), 0);
        CHECK_EQ(wharf_sem_take(&sh->sem, 0), 0);
        return 0;
}

static void share_both(void)
{
        sh = test_shared(sizeof *sh);
        CHECK_EQ(wharf_mutex_init(&sh->mutex), 0);
        CHECK_EQ(wharf_sem_init(&sh->sem, 1, WHARF_SEM_OWNED), 0);
}

static void both_are_held(void)
{
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, 0), -EAGAIN);
        CHECK_EQ(wharf_sem_take(&sh->sem, 0), -EAGAIN);
}

static void both_are_left(void)
{
        CHECK_EQ(wharf_mutex_lock(&sh->mutex, 0), WHARF_HOLDER_DIED);
        CHECK_EQ(wharf_sem_take(&sh->sem, 0), WHARF_HOLDER_DIED);
}

/* Goal: what a program held is free once its process runs another one, although the process lives. */
TEST(a_holder_that_calls_exec_lets_go)
{
        share_both();
        struct exec_child e = exec_child_holds(hold_both, NULL);
        both_are_held();
        exec_child_becomes(&e);
        both_are_left();
        exec_child_ends(&e);
}

static int lock_for_ever(void *arg)
{
        return wharf_mutex_lock(&sh->mutex, WHARF_FOREVER) == WHARF_HOLDER_DIED ? 0 : 1;
}

/* Goal: ... and whoever sleeps on it is told. */
TEST(a_sleeper_outlives_the_exec_of_the_holder)
{
        share_both();
        struct exec_child e = exec_child_holds(hold_both, NULL);
        pid_t sleeper = test_fork(lock_for_ever, NULL);
        while (!(atomic_load(&((struct wh_mutex *)&sh->mutex)->word) & WH_MUTEX_SLEEP))
                sched_yield();
        exec_child_becomes(&e);
        CHECK_EQ(test_wait(sleeper), 0);
        exec_child_ends(&e);
}

/* Goal: the same between users, of whom neither may look at the other. */
static int hold_as_nobody(void *arg)
{
        CHECK_EQ(setresgid(65534, 65534, 65534), 0);
        CHECK_EQ(setresuid(65534, 65534, 65534), 0);
        return hold_both(arg);
}

static int left_for_another_user(void *arg)
{
        CHECK_EQ(setresgid(65533, 65533, 65533), 0);
        CHECK_EQ(setresuid(65533, 65533, 65533), 0);
        both_are_left();
        return 0;
}

TEST(a_holder_that_calls_exec_lets_go_for_other_users)
{
        if (getuid() != 0)
                test_skip("it takes root to be two other users");
        share_both();
        struct exec_child e = exec_child_holds(hold_as_nobody, NULL);
        both_are_held();
        exec_child_becomes(&e);
        CHECK_EQ(test_wait(test_fork(left_for_another_user, NULL)), 0);
        exec_child_ends(&e);
}

/*
 * Goal: a child that runs none of the handlers of pthread_atfork() keeps nothing of its parent's that hides its end.
 */
static pid_t *bare_child;
static int hold_and_make_a_bare_child(void *arg)
{
        hold_both(arg);
        pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        while (pid == 0)
                pause();
        *bare_child = pid;
        return 0;
}

TEST(a_bare_clone_does_not_hold_on_for_its_parent)
{
        if (test_emulated())
                test_skip("the emulator has no MADV_DONTFORK");
        share_both();
        bare_child = test_shared(sizeof *bare_child);
        struct exec_child e = exec_child_holds(hold_and_make_a_bare_child, NULL);
        CHECK_OP(*bare_child, >, 0);
        both_are_held();
        exec_child_becomes(&e);
        both_are_left();
        CHECK_EQ(kill(*bare_child, SIGKILL), 0); /* it was there until now; and it has a copy of the pipe */
        exec_child_ends(&e);
}

/* Goal: a program that closes every descriptor it has not opened itself still holds what it holds. */
static int hold_and_close_all(void *arg)
{
        hold_both(arg);
        for (int fd = 3; fd < 1024; fd++)
                if (fd != *(int *)arg)
                        close(fd);
        raise(SIGSTOP);
        return 0;
}

TEST(closing_every_descriptor_lets_nothing_go)
{
        share_both();
        int none = -1, st;
        pid_t pid = test_fork(hold_and_close_all, &none);
        CHECK_EQ(waitpid(pid, &st, WUNTRACED), pid);
        both_are_held();
        kill(pid, SIGKILL);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        both_are_left();
}

/* Goal: where /dev/zero is another file, what is in doubt is not taken away. */
TEST(another_dev_zero_takes_nothing_away)
{
        if (getuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                test_skip("it takes root and a mount namespace to have another /dev/zero");
        share_both();
        int none = -1, st;
        pid_t pid = test_fork(hold_and_close_all, &none);
        CHECK_EQ(waitpid(pid, &st, WUNTRACED), pid);
        CHECK_EQ(mount("tmpfs", "/mnt", "tmpfs", 0, NULL), 0);
        CHECK_EQ(mknod("/mnt/zero", S_IFCHR | 0666, makedev(1, 5)), 0);
        CHECK_EQ(mount("/mnt/zero", "/dev/zero", NULL, MS_BIND, NULL), 0);
        both_are_held();
        kill(pid, SIGKILL);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        both_are_left();
}

/*
 * Goal: a program that starts itself anew is not the one that it was: what it held is that of a dead holder, and no
 *       deadlock with itself.
 * Method: this program again, told by its environment where the shared memory is.
 */
__attribute__((constructor)) static void run_again(void)
{
        const char *fd = getenv("WHARF_TEST_AGAIN");
        if (!fd)
                return;
        sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(fd), 0);
        if (sh == MAP_FAILED)
                _exit(3);
        _exit(wharf_mutex_lock(&sh->mutex, 0) == WHARF_HOLDER_DIED &&
                              wharf_sem_take(&sh->sem, 0) == WHARF_HOLDER_DIED &&
                              wharf_mutex_lock(&sh->mutex, 0) == -EDEADLK
                      ? 0
                      : 1);
}

static int hold_and_start_anew(void *arg)
{
        char fd[16];
        hold_both(arg);
        snprintf(fd, sizeof fd, "%d", dup(*(int *)arg));
        setenv("WHARF_TEST_AGAIN", fd, 1);
        execl("/proc/self/exe", "again", (char *)NULL);
        return 127;
}

TEST(a_program_that_starts_itself_anew_is_another_holder)
{
        if (test_emulated())
                test_skip("the emulator starts no program of another machine");
        if (access("/dev/zero", R_OK | W_OK) < 0)
                test_skip("there is no /dev/zero, by which exec() is noticed");
        int fd = memfd_create("wharf-again", MFD_CLOEXEC);
        CHECK(fd >= 0 && ftruncate(fd, sizeof *sh) == 0);
        sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(sh != MAP_FAILED);
        CHECK_EQ(wharf_mutex_init(&sh->mutex), 0);
        CHECK_EQ(wharf_sem_init(&sh->sem, 1, WHARF_SEM_OWNED), 0);
        CHECK_EQ(test_wait(test_fork(hold_and_start_anew, &fd)), 0);
        munmap(sh, sizeof *sh);
        close(fd);
}
