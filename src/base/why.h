/*
 * why - what wharf_why() says: one line a thread, set where a public call fails and cleared where it has nothing to
 * add. Kept by task/why.c.
 */
#ifndef WH_BASE_WHY_H
#define WH_BASE_WHY_H

__attribute__((format(printf, 1, 2))) void wh_set_why(const char *fmt, ...);

#endif
