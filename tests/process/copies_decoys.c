/* Functions of the library's names which nobody may call: see copies_test.c. */
#include <stdio.h>
#include <stdlib.h>

#define DECOY(name)                                                    \
        __attribute__((visibility("default"))) void name(void);        \
        void name(void)                                                \
        {                                                              \
                fprintf(stderr, "a copy of the library called out\n"); \
                abort();                                               \
        }

DECOY(wharf_drop)
DECOY(wharf_now_ns)
DECOY(wharf_release)
DECOY(wharf_callmsg)
DECOY(wharf_replymsg)
DECOY(wharf_right_connect)
DECOY(wharf_task_close)
DECOY(wharf_sendmsg)
DECOY(wharf_why)
