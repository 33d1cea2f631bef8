/*
 * The consumer of the textbook: opens the POSIX shared memory object OS, prints the string in it, and removes it.
 * Plain POSIX; it knows nothing of wharf.
 *
 *      posix_consumer [NAME]
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        const char *name = argc > 1 ? argv[1] : "OS";
        const size_t size = 4096;

        int fd = shm_open(name, O_RDONLY, 0666);
        if (fd < 0) {
                perror(name);
                return 1;
        }
        const char *memory = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED) {
                perror("mmap");
                return 1;
        }
        printf("%.*s\n", (int)strnlen(memory, size), memory);
        if (shm_unlink(name) < 0) {
                perror(name);
                return 1;
        }
        return 0;
}
