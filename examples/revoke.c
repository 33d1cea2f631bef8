/*
 * Revoking: the child copies its right, as if for a friend. Its parent takes back that right and whatever came through
 * it; another one that the child has is as good as ever.
 */
#include "must.h"

#include <errno.h>

static int child(void)
{
        wharf_task *task = open_task();
        wharf_name right = right_to(task, "revoke"), friends, other = right_to(task, "revoke");
        char text[16];
        MUST(wharf_right_copy(task, right, WHARF_FOREVER, &friends));
        MUST(wharf_send(task, friends, "copy", 5, WHARF_FOREVER));
        int mine = (int)wharf_call(task, right, "mine", 5, text, sizeof text, WHARF_FOREVER);
        int theirs = wharf_send(task, friends, "again", 6, WHARF_FOREVER);
        printf("the right: %s\nits copy: %s\n", wharf_strerror(mine), wharf_strerror(theirs));
        printf("another one: %s\n", wharf_strerror(wharf_send(task, other, "again", 6, WHARF_FOREVER)));
        return wharf_task_close(task) != NULL || mine != -EKEYREVOKED || theirs != -EKEYREVOKED;
}

int main(void)
{
        if (fork() == 0)
                return child();
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "revoke");
        char text[16] = "";
        struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text};
        for (uint64_t who = 0, seen = 0; strcmp(text, "again"); seen++) {
                MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
                who = m.reply ? m.sender.id : who; /* whose call waits */
                if (seen == 1)
                        MUST(wharf_revoke(task, port, who, WHARF_REVOKE_BRANCH));
        }
        int status;
        wait(&status);
        wharf_task_close(task);
        return status != 0;
}
