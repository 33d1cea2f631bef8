/*
 * confine - what wharfd's server gives up before it reads what others wrote.
 *
 * It holds rights of everybody and reads everybody's bytes, and needs no privilege for that: no capability, no file but
 * those of its domain and of its rules, no program, no socket but those of this machine. docs/design/sandbox.md lists
 * the system calls; a test keeps that list and this one the same.
 */
#ifndef WH_WHARFD_CONFINE_H
#define WH_WHARFD_CONFINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No privileges any more: for keeper and server. Which of WH_CONFINED_* (proto.h) that is. */
uint32_t wh_confine_privileges(void);
/*
 * All of it, for a server of the domain `dir`, whose rules are in `config` (or NULL). `kill`: a call that is not in the
 * list kills instead of being refused, for tests. Which of WH_CONFINED_* this kernel allowed.
 */
uint32_t wh_confine_server(const char *dir, const char *config, bool kill);
/* The name of the i-th system call; NULL behind the last one. Those with several rules come several times. */
const char *wh_confine_call(size_t i);

#endif
