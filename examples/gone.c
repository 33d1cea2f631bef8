/*
 * A server that knows who is there: it makes each guest a right of its own, and is told, by the id of that right's user, when the
 * guest is gone, whichever way it went.
 */
#include "must.h"

static int guest(int number)
{
        wharf_task *task = open_task();
        struct wharf_item right;
        struct wharf_msg ask = {.size = sizeof ask}, answer = {.size = sizeof answer, .items = &right, .cap_items = 1};
        MUST(wharf_callmsg(task, right_to(task, "inn"), &ask, &answer, WHARF_FOREVER));
        MUST(wharf_send(task, right.name, number ? "second" : "first", number ? 6 : 5, WHARF_FOREVER));
        _exit(0); /* without a word */
}

int main(void)
{
        for (int i = 0; i < 2; i++)
                if (fork() == 0)
                        return guest(i);
        wharf_task *task = open_task();
        wharf_name door = port_named(task, "inn"), rooms;
        MUST(wharf_port_new(task, NULL, &rooms));
        for (int i = 0; i < 2; i++) {
                struct wharf_msg m = {.size = sizeof m};
                struct wharf_item give = {.kind = WHARF_MAKE_SEND, .name = rooms};
                uint64_t id;
                MUST(wharf_recvmsg(task, door, &m, WHARF_FOREVER));
                m.items = &give, m.n_items = 1, m.sender_ids = &id, m.len_bytes = 0;
                MUST(wharf_replymsg(task, m.reply, &m));
                MUST(wharf_sender_notify(task, id, rooms));
        }
        int said = 0, gone = 0;
        while (gone < 2) {
                char text[16];
                struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text};
                MUST(wharf_recvmsg(task, rooms, &m, WHARF_FOREVER));
                said += m.notice == 0;
                gone += m.notice == WHARF_NOTICE_SENDER_GONE;
        }
        printf("%d spoke, %d are gone\n", said, gone);
}
