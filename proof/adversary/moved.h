/* moved - what the carrier of a moved port says, as the adversary writes it (src/message/state.h has it for itself). */
#ifndef ADVERSARY_MOVED_H
#define ADVERSARY_MOVED_H

#include <assert.h>
#include <stdint.h>

#define MOVED_MAGIC 0x65766f6d66726877u
enum {
        MOVED_VERSION = 2,
        MOVED_CRED = 32, /* the claim of who sends is to be believed */
};

struct moved_head {
        uint64_t magic;
        uint32_t version, n_links;
        uint64_t n_fds, n_bytes, port_id;
        uint64_t payload_bytes_max, link_mapped_bytes_max, mapped_bytes_max;
        uint64_t received_messages, received_bytes, refused;
        uint32_t flags, capacity_records, links_max, unread_rights_max, introduced_max, unused_notices;
        uint64_t made, capacity_bytes, reply_bytes_max, link_reply_bytes_max;
        uint32_t link_answers_max, zero;
};
static_assert(sizeof(struct moved_head) == 152, "as the library has it");

struct moved_link {
        uint32_t flags, introducer;
        struct {
                int32_t pid;
                uint32_t uid, gid;
        } cred;
        uint8_t rest[288 - 20];
};
static_assert(sizeof(struct moved_link) == 288, "as the library has it");

struct moved_datagram {
        uint64_t magic;
        uint32_t version, index, count, n_fds;
};

#endif
