/*
 * message - mach_msg(), and what both of its halves know of a message.
 */
#include "pattern/mach/mach.h"

#include <string.h>

size_t wh_mach_descriptor_end(const uint8_t *msg, size_t len, size_t at)
{
        /* Both kinds have their type in the same place, as Mach sees to. */
        mach_msg_port_descriptor_t d;
        if (at > len || len - at < sizeof d)
                return 0;
        memcpy(&d, msg + at, sizeof d);
        size_t size = d.type == MACH_MSG_PORT_DESCRIPTOR  ? sizeof(mach_msg_port_descriptor_t)
                      : d.type == MACH_MSG_OOL_DESCRIPTOR ? sizeof(mach_msg_ool_descriptor_t)
                                                          : 0;
        return size && size <= len - at ? at + size : 0;
}

WHARF_API mach_msg_return_t wharf_mach_msg(mach_msg_header_t *msg, mach_msg_option_t option, mach_msg_size_t send_size,
                                           mach_msg_size_t rcv_size, mach_port_t rcv_name, mach_msg_timeout_t timeout,
                                           mach_port_t notify)
{
        wharf_task *t = wharf_mach_task();
        mach_msg_return_t r = MACH_MSG_SUCCESS;
        int64_t deadline = timeout ? wharf_in_ms(timeout) : 0;
        if (!t)
                return option & MACH_SEND_MSG ? MACH_SEND_NO_BUFFER : MACH_RCV_BODY_ERROR;
        if (!msg && option & MACH_RCV_MSG)
                return option & MACH_SEND_MSG ? MACH_SEND_MSG_TOO_SMALL : MACH_RCV_INVALID_DATA;
        if (option & MACH_SEND_MSG)
                r = wh_mach_send(t, msg, option, send_size, option & MACH_SEND_TIMEOUT ? deadline : WHARF_FOREVER,
                                 notify);
        if (r == MACH_MSG_SUCCESS && option & MACH_RCV_MSG)
                r = wh_mach_receive(t, msg, option, rcv_size, rcv_name,
                                    option & MACH_RCV_TIMEOUT ? deadline : WHARF_FOREVER);
        return r;
}
