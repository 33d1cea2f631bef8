/*
 * peers - those that are linked into more than their own program: `wharf bench` measures them too.
 */
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include "harness.h"

extern const struct bench_peer bench_wharf[1];
extern const struct bench_peer bench_pipe[1];
extern const struct bench_peer bench_unix[2]; /* sequenced packets, then byte streams */
extern const struct bench_peer bench_posix_mq[1];

#endif
