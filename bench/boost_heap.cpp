/*
 * boost_heap - Boost.Interprocess as allocators of the benchmark: a managed shared memory segment with its default
 * algorithm (a red-black tree, best fit) and with the simple sequential one. Both lock with a process-shared mutex.
 */
#include "heap_bench.h"

#include <boost/interprocess/indexes/iset_index.hpp>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/interprocess/mem_algo/simple_seq_fit.hpp>

#include <cstdio>
#include <new>
#include <string>
#include <unistd.h>

namespace ip = boost::interprocess;

namespace
{
using seq_segment = ip::basic_managed_shared_memory<char, ip::simple_seq_fit<ip::mutex_family>, ip::iset_index>;

template <class Segment> struct held {
        std::string name;
        Segment segment;
};

template <class Segment> void *open_it(uint64_t bytes)
{
        static unsigned count;
        char name[64];
        snprintf(name, sizeof name, "wharf-bench-%d-%u", static_cast<int>(getpid()), count++);
        try {
                auto *h = new held<Segment>{name, Segment(ip::create_only, name, bytes)};
                ip::shared_memory_object::remove(name); /* what is mapped stays, and nothing is left behind */
                return h;
        } catch (...) {
                ip::shared_memory_object::remove(name);
                return nullptr;
        }
}

template <class Segment> void close_it(void *a)
{
        delete static_cast<held<Segment> *>(a);
}

template <class Segment> void *alloc_it(void *a, size_t bytes)
{
        return static_cast<held<Segment> *>(a)->segment.allocate(bytes, std::nothrow);
}

template <class Segment> void free_it(void *a, void *p)
{
        static_cast<held<Segment> *>(a)->segment.deallocate(p);
}
} // namespace

extern "C" const struct allocator boost_best_fit = {"boost-best-fit", open_it<ip::managed_shared_memory>,
                                                    close_it<ip::managed_shared_memory>,
                                                    alloc_it<ip::managed_shared_memory>,
                                                    free_it<ip::managed_shared_memory>, 0, 1, 0};
extern "C" const struct allocator boost_seq_fit = {"boost-seq-fit", open_it<seq_segment>, close_it<seq_segment>,
                                                   alloc_it<seq_segment>, free_it<seq_segment>, 0, 0, 1};
