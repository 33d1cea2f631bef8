/*
 * fds - what the peers that are file descriptors have in common: whole messages through read and write or send and
 * recv, and a server that waits for several of them with epoll.
 */
#ifndef BENCH_FDS_H
#define BENCH_FDS_H

#include "harness.h"

/* Both ends of what was opened in the parent, and, after fds_join(), the ones this party uses. */
struct fds {
        int server_in[BENCH_FANIN_CLIENTS], server_out[BENCH_FANIN_CLIENTS];
        int client_in[BENCH_FANIN_CLIENTS], client_out[BENCH_FANIN_CLIENTS];
        int in, out;
        int epoll; /* -1 unless this is a server with several descriptors to read from */
};

/* All descriptors -1; becomes run->state. */
struct fds *fds_new(struct bench_run *run);
/* One connected pair of sockets of that type for each client; buffers of three messages from 64 KiB on. */
const char *fds_open_sockets(struct bench_run *run, int type);
void fds_join(struct bench_run *run);
void fds_close(struct bench_run *run);

/* Byte streams. */
void fds_write(struct bench_run *run, void *buf, size_t len_bytes);
void fds_read(struct bench_run *run, void *buf, size_t len_bytes);
/* Sockets that keep messages apart. */
void fds_send(struct bench_run *run, void *buf, size_t len_bytes);
void fds_recv(struct bench_run *run, void *buf, size_t len_bytes);

#endif
