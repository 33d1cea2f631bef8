/*
 * when - until when a call of the client's side of wharfd goes on, and the pauses on its way.
 *
 * Always true:
 *   T1  Where the caller gave a deadline, it ends the call, and nothing else does. Where it gave none, silence does.
 *   T2  A shortage of descriptors or memory passes; it has a time of its own, no longer than that of the call.
 */
#ifndef WH_NAMES_WHEN_H
#define WH_NAMES_WHEN_H

#include <stdbool.h>
#include <stdint.h>

#define WH_WHEN_RETRY_NS ((int64_t)10 * 1000000) /* the pause before the same is tried again */

/* Until when a call goes on. */
struct when {
        int64_t until_ns;
        int64_t short_ns; /* ... where somebody is short of descriptors or memory, which passes */
        bool chosen;      /* by the caller: then to the end, whatever wharfd does meanwhile */
};

/* Of a caller's deadline; 0: it gave none. */
struct when wh_when(int64_t deadline_ns);
/*
 * wharfd has taken something that it had to be told first. Where the caller said nothing it is silence that ends a call:
 * the time begins anew, so that one call is enough for any number of names.
 */
void wh_when_answered(struct when *w);
/* Until when one answer is waited for. */
int64_t wh_when_answer(const struct when *w);
/* Before the same is tried again. False: the time is over. */
bool wh_when_pause(const struct when *w);
/* The same where somebody is short of something, which passes. False: the time for it is over. */
bool wh_when_short_pause(const struct when *w);

#endif
