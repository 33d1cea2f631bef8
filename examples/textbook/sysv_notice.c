/*
 * The System V program of the textbook: writes its argument into a segment of 1 KiB, which it makes if need be, or
 * prints what stands there. Two programs meet because ftok() makes the same key of the same file.
 * Plain System V; it knows nothing of wharf.
 *
 *      sysv_notice FILE TEXT      write
 *      sysv_notice FILE           print
 */
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#define SIZE 1024

int main(int argc, char **argv)
{
        if (argc < 2 || argc > 3) {
                fprintf(stderr, "usage: sysv_notice FILE [TEXT]\n");
                return 2;
        }
        key_t key = ftok(argv[1], 'R');
        if (key < 0) {
                perror(argv[1]);
                return 1;
        }
        int id = shmget(key, SIZE, 0644 | IPC_CREAT);
        if (id < 0) {
                perror("shmget");
                return 1;
        }
        char *memory = shmat(id, NULL, 0);
        if (memory == (char *)-1) {
                perror("shmat");
                return 1;
        }
        if (argc == 3)
                printf("writing to segment: \"%s\"\n", strncpy(memory, argv[2], SIZE - 1));
        else
                printf("segment contains: \"%.*s\"\n", (int)strnlen(memory, SIZE), memory);
        if (shmdt(memory) < 0) {
                perror("shmdt");
                return 1;
        }
        return 0;
}
