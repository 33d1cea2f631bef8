/*
 * words - what each of Mach's answers means.
 */
#include "wharf/mach.h"

WHARF_API const char *wharf_mach_error_string(mach_msg_return_t code)
{
        static const struct {
                mach_msg_return_t code;
                const char *words;
        } all[] = {
                {MACH_MSG_SUCCESS, "success"},
                {MACH_SEND_INVALID_DATA, "(ipc/send) the message makes no sense"},
                {MACH_SEND_INVALID_DEST, "(ipc/send) invalid destination port"},
                {MACH_SEND_TIMED_OUT, "(ipc/send) timed out"},
                {MACH_SEND_WILL_NOTIFY, "(ipc/send) will notify when it is sent"},
                {MACH_SEND_NOTIFY_IN_PROGRESS, "(ipc/send) one message waits to be sent already"},
                {MACH_SEND_MSG_TOO_SMALL, "(ipc/send) message too small"},
                {MACH_SEND_INVALID_REPLY, "(ipc/send) invalid reply port"},
                {MACH_SEND_INVALID_RIGHT, "(ipc/send) invalid port right"},
                {MACH_SEND_INVALID_NOTIFY, "(ipc/send) invalid notify port"},
                {MACH_SEND_INVALID_MEMORY, "(ipc/send) invalid out-of-line memory"},
                {MACH_SEND_NO_BUFFER, "(ipc/send) no message buffer: memory, descriptors or a quota are used up"},
                {MACH_SEND_TOO_LARGE, "(ipc/send) message too large"},
                {MACH_SEND_INVALID_TYPE, "(ipc/send) invalid type of a descriptor"},
                {MACH_SEND_INVALID_HEADER, "(ipc/send) invalid message header"},
                {MACH_RCV_INVALID_NAME, "(ipc/rcv) invalid name"},
                {MACH_RCV_TIMED_OUT, "(ipc/rcv) timed out"},
                {MACH_RCV_TOO_LARGE, "(ipc/rcv) message too large"},
                {MACH_RCV_PORT_CHANGED, "(ipc/rcv) port moved while waiting"},
                {MACH_RCV_INVALID_DATA, "(ipc/rcv) no room for a message"},
                {MACH_RCV_PORT_DIED, "(ipc/rcv) port died while waiting"},
                {MACH_RCV_IN_SET, "(ipc/rcv) port is in a set"},
                {MACH_RCV_BODY_ERROR, "(ipc/rcv) no memory or names for what the message carries"},
                {MACH_RCV_NO_SENDERS, "(ipc/rcv) no sender is left, and none can come"},
                {KERN_NO_SPACE, "(os/kern) no space available"},
                {KERN_INVALID_ARGUMENT, "(os/kern) invalid argument"},
                {KERN_FAILURE, "(os/kern) failure"},
                {KERN_RESOURCE_SHORTAGE, "(os/kern) resource shortage"},
                {KERN_ALREADY_IN_SET, "(os/kern) already in a set"},
                {KERN_NOT_IN_SET, "(os/kern) in no set"},
                {KERN_NAME_EXISTS, "(os/kern) asked for already"},
                {KERN_INVALID_NAME, "(os/kern) invalid name"},
                {KERN_INVALID_TASK, "(os/kern) invalid task"},
                {KERN_INVALID_RIGHT, "(os/kern) invalid right"},
                {KERN_INVALID_VALUE, "(os/kern) invalid value"},
                {KERN_UREFS_OVERFLOW, "(os/kern) too many references"},
                {BOOTSTRAP_NAME_IN_USE, "(bootstrap) name in use"},
                {BOOTSTRAP_UNKNOWN_SERVICE, "(bootstrap) unknown service"},
        };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
                if (all[i].code == code)
                        return all[i].words;
        return "unknown code";
}
