/*
 * peer_main - the program of one of peers.h; BENCH_PEER is its name there.
 */
#include "peers.h"

int main(int argc, char **argv)
{
        return bench_main(argc, argv, BENCH_PEER, sizeof(BENCH_PEER) / sizeof(*BENCH_PEER));
}
