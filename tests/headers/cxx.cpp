// A C++ program that uses the library: all public headers at once, and a few calls that must link as C.
#include <wharf/buffer.h>
#include <wharf/heap.h>
#include <wharf/message.h>
#include <wharf/names.h>
#include <wharf/port.h>
#include <wharf/segment.h>
#include <wharf/sync.h>
#include <wharf/task.h>
#include <wharf/wharf.h>

#include <cstring>

int main()
{
        wharf_segment *segment = nullptr;
        if (wharf_segment_create("anon:cxx", 65536, nullptr, &segment) != 0 ||
            wharf_segment_attach(segment, WHARF_SEGMENT_WRITE, nullptr) != 0)
                return 1;
        wharf_buffer *buffer = nullptr;
        if (wharf_buffer_format(wharf_segment_base(segment), 65536, nullptr) != 0 ||
            wharf_buffer_open(wharf_segment_base(segment), 65536, &buffer) != 0)
                return 2;
        char back[16] = "";
        if (wharf_buffer_put(buffer, "Hello", 6, 0) != 0 || wharf_buffer_get(buffer, back, sizeof back, 0) != 6)
                return 3;
        wharf_buffer_close(buffer);
        wharf_segment_close(segment);
        return std::strcmp(back, "Hello") != 0;
}
