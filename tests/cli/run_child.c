/* For run.sh: calls the right that it was given as argv[1] with argv[2], and prints the reply; or says why not. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wharf/spawn.h>

int main(int argc, char **argv)
{
        wharf_task *t;
        struct wharf_item item;
        char reply[100];
        int r = wharf_task_open(NULL, &t);
        if (r == 0)
                r = wharf_inherited(t, argv[1], &item);
        if (r == 0 && item.kind == WHARF_GOT_FD) {
                r = write(item.fd, argv[2], strlen(argv[2])) < 0;
                close(item.fd);
        } else if (r == 0) {
                ssize_t n = wharf_call(t, item.name, argv[2], strlen(argv[2]), reply, sizeof reply, wharf_in_ms(60000));
                r = n < 0 ? (int)n : 0;
                if (n > 0)
                        fwrite(reply, 1, (size_t)n, stdout);
        }
        if (r < 0)
                printf("%s; %s\n", wharf_strerror(r), wharf_why());
        wharf_task_close(t);
        return r != 0;
}
