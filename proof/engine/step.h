/*
 * step - the states of shared memory at every machine instruction of the released code; see step.c.
 */
#ifndef PROOF_ENGINE_STEP_H
#define PROOF_ENGINE_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Shared memory whose bytes make the state; a multiple of 8 long. Mapped in this process and, after fork, in the next.
 */
void proof_step_show(const void *at, size_t len);
/* Bytes of it that no reader may look at while the operation runs. */
void proof_step_hide(const void *at, size_t len);
uint64_t proof_step_hash(void);

/* The set of states: add one (false: it was there), ask, start anew (with what is shown and hidden), save, load. */
bool proof_step_state(uint64_t hash);
bool proof_step_known(uint64_t hash);
void proof_step_forget(void);
bool proof_step_write(const char *path);
bool proof_step_read(const char *path);

/* Run run() in a traced child, tell at_each() the state before every instruction, and answer how many there were. */
uint64_t proof_step_trace(void (*run)(void), void (*at_each)(uint64_t hash));

#endif
