/*
 * left - how much memory can still be had without anybody being killed: on this machine, and in the memory cgroups that
 * this process is in.
 *
 * Why: shared memory without a file system's limit (memfds, System V) and a roomy /dev/shm are given by the kernel
 * until there is none, and then it kills. So it is asked first. The answer is an estimate, which others change all the
 * time.
 */
#ifndef WH_OS_LEFT_H
#define WH_OS_LEFT_H

#include <stdint.h>

#define WH_LEFT_WHAT 256

struct wh_os_left {
        uint64_t bytes;
        uint64_t limit_bytes;    /* of the cgroup; 0 when the machine is what has least */
        char what[WH_LEFT_WHAT]; /* the file with the limit: "/sys/fs/cgroup/a/memory.max"; or "this machine" */
};

/*
 * The least of all: what the machine has (swap included; without /proc, all it was built with), and of each memory
 * cgroup from ours up to the last that can be seen, the limit less what is used and cannot be dropped (cached files
 * can), and the swap it may use. memory.high is none of these: beyond it things are slow, and nobody is killed. About
 * 0.3 ms.
 */
int wh_os_memory_left(struct wh_os_left *ret);

/*
 * May `bytes` more be asked of the kernel? 0 or -ENOMEM, and then `ret`, unless NULL, says what has too little. Cheap:
 * it only looks when, since it last did, this process has asked for an eighth of what was left then, or for a MiB.
 */
int wh_os_memory_ask(uint64_t bytes, struct wh_os_left *ret);

#endif
