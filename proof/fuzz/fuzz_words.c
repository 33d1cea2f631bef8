/* The command's words for sizes and durations. */
#include "fuzz.h"
#include "verb.h"

void fuzz_one(struct fuzz_in *in)
{
        size_t len = (size_t)(in->end - in->at);
        char *text = malloc(len + 1), buf[16];
        int64_t ns = -1;
        uint64_t bytes = 0;
        FUZZ_CHECK(text);
        memcpy(text, in->at, len);
        text[len] = 0;
        if (parse_duration_ns(text, &ns))
                FUZZ_CHECK(ns >= 0);
        if (parse_size(text, &bytes))
                FUZZ_CHECK(strlen(format_size(bytes, buf)) < sizeof buf);
        free(text);
}

void fuzz_seeds(void)
{
        static const char *const words[] = {
                "250ms", "2s", "1m", "500us", "10ns", "17K", "3G", "1.5s", "18446744073709551615"};
        for (unsigned i = 0; i < sizeof words / sizeof *words; i++) {
                char name[8] = "word0";
                name[4] = (char)('0' + i);
                fuzz_seed(name, words[i], strlen(words[i]));
        }
}
