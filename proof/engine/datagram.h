/*
 * datagram - what a liar can do to a datagram beside changing its bytes: its length, and the descriptors that come
 * with it. Wharf's frames carry their own length and number of descriptors, so most lies come in two forms: one that
 * these give away, and one in which they were changed as well.
 */
#ifndef PROOF_ENGINE_DATAGRAM_H
#define PROOF_ENGINE_DATAGRAM_H

#include "../runtime/hook.h"

/* The lies that fit a datagram of `len` bytes with n_fds descriptors are numbered from 0; so many there are. */
unsigned proof_datagram_lies(unsigned len, unsigned n_fds);
/* The honest datagram, for the trace. */
void proof_datagram_look(const struct hook_step *s, unsigned *ret_len, unsigned *ret_n_fds);
/* Tell lie number `which` about the datagram that has just come. False: there is no such lie about it. */
bool proof_datagram_lie(const struct hook_step *s, unsigned which);
/*
 * A memory without seals that was put in the place of one that had them is cut to nothing as soon as somebody relies on
 * it: to be called at every step, and with NULL at the end.
 */
void proof_datagram_cut(const struct hook_step *s);

#endif
