/* things - descriptors that nobody wants to be given. */
#ifndef ADVERSARY_THINGS_H
#define ADVERSARY_THINGS_H

#include "program.h"

/* A new one, or -1. What it needs beside it stays open in this process. */
int thing_make(enum program_what what);

#endif
