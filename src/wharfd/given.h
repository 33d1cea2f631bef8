/*
 * given - what a service manager or a keeper gave this very process at its start: descriptors, and whom to tell.
 */
#ifndef WH_WHARFD_GIVEN_H
#define WH_WHARFD_GIVEN_H

#include <stdbool.h>

enum { WH_FD_NAME_MAX = 64 };

/* A descriptor that was handed to this process, with the name it was given. */
struct wh_given {
        int fd; /* -1 once somebody has taken it */
        char name[WH_FD_NAME_MAX];
};

/*
 * The descriptors that a service manager or a keeper passed to this very process, made close-on-exec; the variables are
 * removed, so that no child believes them to be its own. *ret_n is 0 when there are none. free() *ret.
 */
int wh_given_take(struct wh_given **ret, unsigned *ret_n);
/* Close what nobody took. */
void wh_given_done(struct wh_given *given, unsigned n);
/* A variable that is a decimal number and nothing else. */
bool wh_given_number(const char *name, long *ret);
/*
 * The socket to whoever holds descriptors for us: of the keeper (*ret_keeper), or of $NOTIFY_SOCKET; -1 when there is
 * none.
 */
int wh_notify_open(bool *ret_keeper);

#endif
