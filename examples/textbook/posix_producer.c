/*
 * The producer of the textbook: makes the POSIX shared memory object OS and writes "Hello" and "World!" into it.
 * Plain POSIX; it knows nothing of wharf.
 *
 *      posix_producer [NAME]
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
        static const char *const messages[] = {"Hello", "World!"};

        int fd = shm_open(name, O_CREAT | O_RDWR, 0666);
        if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
                perror(name);
                return 1;
        }
        char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED) {
                perror("mmap");
                return 1;
        }
        for (int i = 0; i < 2; i++)
                memory += sprintf(memory, "%s", messages[i]);
        return 0;
}
