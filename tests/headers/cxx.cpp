// A C++ program that uses the library: wharf/wharf.h, which is all of them, calls that must link as C, and structs as they are
// filled in from C++.
#include <wharf/wharf.h>

#include <cstring>

// Sends and receives, with a right inside, and calls.
static int messages()
{
        wharf_task *task = nullptr;
        wharf_name port = WHARF_NONE, right = WHARF_NONE;
        wharf_port_opts opts = {};
        opts.size = sizeof opts;
        opts.capacity_records = 8;
        if (wharf_task_open(nullptr, &task) != 0 || wharf_port_new(task, &opts, &port) != 0 ||
            wharf_right_new(task, port, &right) != 0)
                return 1;
        char text[] = "from C++", got[16] = "";
        wharf_item give = {}, taken = {};
        give.kind = WHARF_MAKE_SEND;
        give.name = port;
        wharf_msg out = {}, in = {};
        out.size = in.size = sizeof(wharf_msg);
        out.data = text;
        out.len_bytes = sizeof text;
        out.items = &give;
        out.n_items = 1;
        in.data = got;
        in.cap_bytes = sizeof got;
        in.items = &taken;
        in.cap_items = 1;
        if (wharf_sendmsg(task, right, &out, WHARF_FOREVER) != 0 || wharf_recvmsg(task, port, &in, WHARF_FOREVER) != 0)
                return 2;
        if (std::strcmp(got, text) != 0 || in.n_items != 1 || taken.kind != WHARF_GOT_SEND)
                return 3;
        // What is only read may be const, and a literal.
        wharf_msg literal = {};
        literal.size = sizeof literal;
        literal.payload = "a literal";
        literal.len_bytes = 10;
        if (literal.data != literal.payload || wharf_sendmsg(task, right, &literal, WHARF_FOREVER) != 0 ||
            wharf_recv(task, port, got, sizeof got, nullptr, WHARF_FOREVER) != 10 || std::strcmp(got, "a literal") != 0)
                return 5;
        if (wharf_send(task, taken.name, "x", 1, WHARF_FOREVER) != 0 ||
            wharf_recv(task, port, got, sizeof got, nullptr, WHARF_FOREVER) != 1)
                return 4;
        task = wharf_task_close(task);
        return 0;
}

int main()
{
        if (int at = messages())
                return 10 + at;
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
