/*
 * step over core operations of a lane: publishing, clearing ahead, taking, releasing, announcing sleep. Compiled twice:
 * with hooks (STEP_HOOKED) it runs itself armed and writes what the hooks see; without, it traces the released code.
 * The second runs the first, which it finds beside itself, so one call is one proof.
 */
#include "engine/step.h"
#include "lane/lane.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef STEP_HOOKED
#include "runtime/hook.h"
#endif

static struct wh_lane_tx *tx;
static struct wh_lane_rx *rx;

static void die(const char *what)
{
        fprintf(stderr, "step lane: %s\n", what);
        exit(1);
}

static void put(unsigned n, uint32_t len)
{
        uint8_t bytes[256];
        memset(bytes, (int)n + 1, sizeof bytes);
        void *body = wh_ring_reserve(&tx->ring, len);
        if (!body)
                die("no room");
        wh_shm_copy(body, bytes, len);
        wh_ring_publish(&tx->ring, WH_REC_PLAIN, len);
        wh_ring_must_ring(&tx->ring);
}

/* The payload of a record that is not published yet is hidden until it is; here all payloads are, and heads are not. */
static void hide_bodies(void)
{
        for (uint64_t line = 0; line < tx->ring.lines; line++)
                proof_step_hide(tx->ring.ring + line * WH_LINE + 8, WH_LINE - 8);
}

static void send_some(void)
{
        for (unsigned i = 0; i < 6; i++)
                put(i, 1 + i * 18); /* two lines at most, so that the order of a copy does not show */
}

static void take_some(void)
{
        struct wh_rec rec;
        uint8_t bytes[256];
        while (wh_ring_peek(&rx->ring, &rec) == 1) {
                wh_shm_copy(bytes, rec.body, rec.len);
                wh_ring_advance(&rx->ring, &rec);
                wh_ring_publish_taken(&rx->ring);
        }
        wh_ring_sleep(&rx->ring);
        wh_ring_awake(&rx->ring);
}

static void release_some(void)
{
        for (uint16_t slot = 3; slot < 8; slot++)
                wh_lane_release(rx, slot);
}

static void want_room(void)
{
        wh_ring_want(&tx->ring, true);
        wh_ring_refresh(&tx->ring);
        wh_ring_want(&tx->ring, false);
}

static const struct {
        const char *name;
        void (*before)(void), (*run)(void);
} ops[] = {{"send", NULL, send_some},
           {"take", send_some, take_some},
           {"release", NULL, release_some},
           {"want", send_some, want_room}};
enum { N_OPS = sizeof ops / sizeof *ops };

static void setup(unsigned i)
{
        proof_step_forget();
        if (wh_lane_tx_new(4096, 1000, &tx) < 0 || wh_lane_rx_open(tx->out_fd, tx->back_fd, 1 << 30, &rx) < 0)
                die("no lane");
        /* The traced child is a fork, and would not inherit them. */
        madvise(tx->ring.out, tx->map_len, MADV_DOFORK);
        madvise((void *)(uintptr_t)tx->ring.back, WH_PAGE, MADV_DOFORK);
        madvise((void *)(uintptr_t)rx->ring.out, rx->map_len, MADV_DOFORK);
        madvise(rx->ring.back, WH_PAGE, MADV_DOFORK);
        if (ops[i].before)
                ops[i].before();
        proof_step_show(tx->ring.out, tx->map_len);
        proof_step_show(tx->ring.back, WH_PAGE);
        hide_bodies();
}

static void teardown(void)
{
        tx = wh_lane_tx_free(tx);
        rx = wh_lane_rx_free(rx);
}

#ifdef STEP_HOOKED

static int on_step(const struct hook_step *s)
{
        proof_step_state(proof_step_hash());
        return 0;
}

int main(int argc, char **argv)
{
        for (unsigned i = 0; argc == 2 && i < N_OPS; i++) {
                char path[512];
                snprintf(path, sizeof path, "%s.%s", argv[1], ops[i].name);
                setup(i);
                hook_arm(on_step);
                ops[i].run();
                hook_disarm();
                proof_step_state(proof_step_hash());
                if (!proof_step_write(path))
                        die("cannot write the states");
                teardown();
        }
        return argc != 2;
}

#else

static unsigned seen, unknown;
static uint64_t last;

static void at_each(uint64_t hash)
{
        if (hash == last)
                return;
        last = hash;
        seen++;
        unknown += !proof_step_known(hash);
}

int main(int argc, char **argv)
{
        char hooked[512], path[600], prefix[64];
        unsigned long long steps = 0;
        unsigned bad = 0, states = 0;
        snprintf(hooked, sizeof hooked, "%s_hooked", argv[0]);
        snprintf(prefix, sizeof prefix, "/tmp/wharf-step.%d", (int)getpid());
        pid_t pid = fork();
        if (pid == 0) {
                execl(hooked, hooked, prefix, (char *)NULL);
                _exit(127);
        }
        int st;
        if (pid < 0 || waitpid(pid, &st, 0) < 0 || !WIFEXITED(st) || WEXITSTATUS(st))
                die("the hooked program failed");
        for (unsigned i = 0; i < N_OPS; i++) {
                snprintf(path, sizeof path, "%s.%s", prefix, ops[i].name);
                setup(i);
                if (!proof_step_read(path))
                        die("no states");
                unlink(path);
                seen = unknown = 0;
                last = 0;
                uint64_t n = proof_step_trace(ops[i].run, at_each);
                steps += n;
                states += seen;
                if (!n || unknown) {
                        fprintf(stderr,
                                "step lane: %s: %u of %u states at %llu instructions are none that the hooks see\n",
                                ops[i].name, unknown, seen, (unsigned long long)n);
                        bad++;
                }
                teardown();
        }
        printf("step lane: operations %d, instructions %llu, states %u%s\n", N_OPS, steps, states,
               bad ? ", FAILED" : "");
        return bad != 0;
}

#endif
