/*
 * kill - a party dies, or is stopped, before every step that changes what others can see.
 *
 *      victim:K      the victim dies before its step K
 *      rescuer:K:J   so does the first rescuer before its step J; a second one finishes
 *      both:K:J      the victim stands still before step K, the rescuer gets as far as step J, then both die
 *      pause:K       the victim stands still before step K, a rescuer runs to its end, the victim goes on
 *
 * Rescuer and both are done for one K of each distinct crash state, for two deaths in the same state are the same
 * death. A victim that goes on is another matter: it remembers what it saw, so that is done for every K.
 */
#include "case.h"

#include "os/os.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum mode { VICTIM, RESCUER, BOTH, PAUSE };
static const char *const mode_names[] = {"victim", "rescuer", "both", "pause"};

struct plan {
        enum mode mode;
        uint64_t k, j;
        bool changes_only; /* a step is a store or a call: nothing else changes what others see */
};
#define NEVER UINT64_MAX

/* Of the armed party. One process runs one armed party. */
static struct {
        uint64_t at, stop_at;
        bool pause, changes_only, is_rescuer;
        struct proof_report *report;
} armed;

static int on_step(const struct hook_step *s)
{
        /* An allocation is private: nobody else sees whether it happened. */
        if (s->kind == HOOK_CALL && s->call == WH_OS_malloc)
                return 0;
        if (armed.changes_only && (s->kind == HOOK_LOAD || s->kind == HOOK_FENCE || s->kind == HOOK_RECEIVED))
                return 0;
        if (armed.at++ != armed.stop_at)
                return 0;
        if (armed.is_rescuer) {
                armed.report->rescuer_reached = true;
        } else {
                armed.report->reached = true;
        }
        armed.report->hash = proof_hash(armed.report->hash, &(uint64_t){proof_state_hash()}, 8);
        if (armed.pause)
                proof_stop();
        else
                proof_die();
        return 0;
}

static pid_t victim_fork(struct proof *p, const struct plan *plan)
{
        pid_t pid = proof_fork(p);
        if (pid)
                return pid;
        if (p->op->start)
                p->op->start(p);
        armed.at = 0;
        armed.stop_at = plan->k;
        armed.pause = plan->mode == BOTH || plan->mode == PAUSE;
        armed.changes_only = plan->changes_only;
        armed.report = p->report_;
        hook_arm(on_step);
        int r = p->op->victim(p);
        hook_disarm();
        p->report_->steps = armed.at;
        p->report_->victim_status = r;
        if (!p->report_->reached)
                p->report_->hash = proof_state_hash();
        _exit(0);
}

/* `stop_at` NEVER: runs to its end. */
static pid_t rescuer_fork(struct proof *p, const struct plan *plan, uint64_t stop_at)
{
        pid_t pid = proof_fork(p);
        if (pid)
                return pid;
        armed.at = 0;
        armed.stop_at = stop_at;
        armed.pause = plan->mode == BOTH;
        armed.changes_only = plan->changes_only;
        armed.is_rescuer = true;
        armed.report = p->report_;
        hook_arm(on_step);
        p->op->rescue(p);
        hook_disarm();
        p->report_->rescuer_steps = armed.at;
        _exit(0);
}

static void rescue(struct proof *p, const struct plan *plan)
{
        if (p->op->rescue)
                proof_wait(p, rescuer_fork(p, plan, NEVER), "rescuer", NULL);
}

static void kill_case(struct proof *p, const void *arg)
{
        const struct plan *plan = arg;
        const struct proof_op *op = p->op;
        bool stopped = false;
        pid_t partner = 0;
        hook_random_seed = 0x5eed;
        if (op->setup)
                op->setup(p);
        if (op->partner && (partner = proof_fork(p)) == 0) {
                op->partner(p);
                _exit(0);
        }
        pid_t victim = p->victim = victim_fork(p, plan);
        if (op->parted)
                op->parted(p);

        bool hit = proof_wait(p, victim, "victim", &stopped);
        p->outcome = stopped ? PROOF_PAUSED : hit ? PROOF_KILLED : PROOF_FINISHED;
        if (p->outcome == PROOF_FINISHED)
                p->victim_status = p->report_->victim_status;
        if (hit && !p->report_->reached)
                proof_fail(p, op->name, 0, "the victim was killed by somebody else");

        if (hit && plan->mode == RESCUER) {
                proof_wait(p, rescuer_fork(p, plan, plan->j), "rescuer", NULL);
                p->again = p->report_->rescuer_reached;
        } else if (hit && plan->mode == BOTH) {
                pid_t rescuer = rescuer_fork(p, plan, plan->j);
                bool rescuer_stopped;
                proof_wait(p, rescuer, "rescuer", &rescuer_stopped);
                kill(victim, SIGKILL);
                proof_wait(p, victim, "victim", NULL);
                if (rescuer_stopped) {
                        kill(rescuer, SIGKILL);
                        proof_wait(p, rescuer, "rescuer", NULL);
                }
                p->again = rescuer_stopped;
                p->outcome = PROOF_KILLED;
        } else if (hit && plan->mode == PAUSE) {
                rescue(p, plan);
                kill(victim, SIGCONT);
                if (proof_wait(p, victim, "victim", NULL))
                        proof_fail(p, op->name, 0, "the victim was killed by somebody else");
                p->victim_status = p->report_->victim_status;
                p->outcome = PROOF_FINISHED;
        }
        rescue(p, plan);
        if (partner)
                proof_wait(p, partner, "partner", NULL);
        if (op->audit)
                op->audit(p);
        if (op->teardown)
                op->teardown(p);
}

static bool run(const struct proof_args *args, const struct proof_op *op, struct plan plan, struct proof_figures *sum)
{
        char name[64];
        int n = snprintf(name, sizeof name, "%s:%" PRIu64, mode_names[plan.mode], plan.k);
        if (plan.mode == RESCUER || plan.mode == BOTH)
                snprintf(name + n, sizeof name - (size_t)n, ":%" PRIu64, plan.j);
        if (plan.k == NEVER)
                strcpy(name, "none");
        if (!proof_wanted(args, name))
                return true;
        bool ok = proof_case(args, "kill", op, name, kill_case, &plan, sum);
        if (args->verbose)
                printf("%s %s reached %d steps %" PRIu64 " rescuer %" PRIu64 " state %016" PRIx64 "\n", op->name, name,
                       proof_reported()->reached, proof_reported()->steps, proof_reported()->rescuer_steps,
                       proof_reported()->hash);
        return ok;
}

void proof_kill(const struct proof_args *args, const struct proof_op *op, struct proof_figures *sum)
{
        const uint64_t costs = op->costs ? op->costs : 1, cap = args->quick ? 120 / costs : 1000 / costs,
                       cap_states = args->quick ? 6 / costs : 14, cap_j = args->quick ? 6 : 14;
        const bool narrow = args->quick;
        struct proof_set states = {0};
        struct plan plan = {.mode = VICTIM, .k = NEVER, .changes_only = narrow};
        uint64_t *distinct = calloc(cap + 2, sizeof *distinct), *rescuer_steps = calloc(cap + 2, sizeof *rescuer_steps);
        uint64_t n_distinct = 0;

        sum->operations++;
        /* With --case alone, the steps are not known: take what is asked for as it is. */
        if (args->only_case && strcmp(args->only_case, "none")) {
                for (unsigned m = 0; m < 4; m++) {
                        size_t l = strlen(mode_names[m]);
                        if (strncmp(args->only_case, mode_names[m], l) || args->only_case[l] != ':')
                                continue;
                        char *end;
                        plan.mode = (enum mode)m;
                        plan.k = strtoull(args->only_case + l + 1, &end, 10);
                        plan.j = *end == ':' ? strtoull(end + 1, NULL, 10) : 0;
                        run(args, op, plan, sum);
                }
                goto out;
        }
        if (!run(args, op, plan, sum))
                goto out; /* not even undisturbed */
        uint64_t n = proof_reported()->steps;
        proof_set_add(&states, proof_reported()->hash);
        for (plan.k = 0; plan.k < n; plan.k++) {
                if (!proof_sampled(plan.k, n, cap, args->seed))
                        continue;
                bool ok = run(args, op, plan, sum);
                /* Steps may vary from run to run; what was not reached is no kill. */
                if (!proof_reported()->reached) {
                        sum->cases -= ok;
                        continue;
                }
                const bool is_new = proof_set_add(&states, proof_reported()->hash);
                if (is_new && ok) {
                        rescuer_steps[n_distinct] = proof_reported()->rescuer_steps;
                        distinct[n_distinct++] = plan.k;
                }
                /* The quick tier stops where it has not been yet. */
                if (!op->no_pause && (is_new || !args->quick)) {
                        plan.mode = PAUSE;
                        run(args, op, plan, sum);
                        plan.mode = VICTIM;
                }
        }
        for (uint64_t i = 0; i < n_distinct; i++) {
                if (!proof_sampled(i, n_distinct, cap_states, args->seed))
                        continue;
                plan.k = distinct[i];
                for (plan.j = 0; op->rescue && plan.j < rescuer_steps[i]; plan.j++) {
                        if (!proof_sampled(plan.j, rescuer_steps[i], cap_j, args->seed ^ i))
                                continue;
                        plan.mode = RESCUER;
                        if (run(args, op, plan, sum) && proof_reported()->rescuer_reached)
                                proof_set_add(&states, proof_reported()->hash);
                        plan.mode = BOTH;
                        if (!op->no_pause)
                                run(args, op, plan, sum);
                }
        }
        sum->states += states.n;
out:
        proof_set_done(&states);
        free(distinct);
        free(rescuer_steps);
}
