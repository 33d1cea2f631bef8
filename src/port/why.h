/*
 * why - what wharf_why() says: one line a thread, set where a public call fails and cleared where it has nothing to
 * add.
 */
#ifndef WH_PORT_WHY_H
#define WH_PORT_WHY_H

/* Sets the line and returns `err`. A NULL `fmt` clears it. */
__attribute__((format(printf, 2, 3))) int wh_fail(int err, const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void wh_set_why(const char *fmt, ...);

#endif
