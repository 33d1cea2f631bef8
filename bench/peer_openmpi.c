/*
 * peer_openmpi - Open MPI between ranks on one machine, with whatever transport it picks itself. It always spins.
 *
 *      mpirun.openmpi -np 2 peer_openmpi ...   pp, tp, idle         mpirun.openmpi -np 5 peer_openmpi ...   fanin
 *
 * One way, every 256th message is sent synchronously: MPI does not bound the queue of messages nobody has asked for
 * yet, and a receiver that falls behind would otherwise make it grow for as long as the benchmark runs.
 */
#include "harness.h"

#include <string.h>

#include <mpi.h>

#define SYNCHRONOUS_EVERY 256

static int rank, ranks;
static unsigned unsynced; /* messages this process sent one way since the last synchronous one */

static void mpi_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        int to = run->party ? 0 : 1;
        if (run->work != BENCH_PP && ++unsynced == SYNCHRONOUS_EVERY) {
                unsynced = 0;
                MPI_Ssend(buf, (int)len_bytes, MPI_BYTE, to, 0, MPI_COMM_WORLD);
        } else {
                MPI_Send(buf, (int)len_bytes, MPI_BYTE, to, 0, MPI_COMM_WORLD);
        }
}

static void mpi_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        int from = run->party ? 0 : run->work == BENCH_FANIN ? MPI_ANY_SOURCE : 1;
        MPI_Recv(buf, (int)len_bytes, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

static const struct bench_peer peer = {
        .name = "openmpi",
        .works = BENCH_BIT(BENCH_PP) | BENCH_BIT(BENCH_TP) | BENCH_BIT(BENCH_FANIN) | BENCH_BIT(BENCH_IDLE),
        .modes = BENCH_BIT(BENCH_SPIN),
        .send = mpi_send,
        .recv = mpi_recv,
};

/* The ranks are the parties: all walk through the same measurements in the same order. */
static bool measure(struct bench_run *run)
{
        struct bench_result result;
        if ((uint32_t)ranks != run->clients + 1)
                return true;
        memset(&result, 0, sizeof(result));
        run->party = (uint32_t)rank;
        run->result = &result;
        bench_pin(run);
        MPI_Barrier(MPI_COMM_WORLD);
        bench_party(run);
        if (bench_party_measures(run) && result.ok)
                bench_print(run);
        return !bench_party_measures(run) || result.ok;
}

int main(int argc, char **argv)
{
        struct bench_opts opts;
        unsigned failed;
        MPI_Init(&argc, &argv);
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        MPI_Comm_size(MPI_COMM_WORLD, &ranks);
        opts = bench_options(argc, argv);
        failed = bench_each(&opts, &peer, measure);
        MPI_Finalize();
        return failed ? 1 : 0;
}
