#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "theirs.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

void *theirs(const char *name, void *caller) {
    Dl_info library;
    void *handle = dladdr(caller, &library) ? dlopen(library.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    void *found = handle ? dlsym(handle, name) : NULL;
    if (!found) {
        fprintf(stderr, "dclocal: llama.cpp's own %s is not to be found; DCLOCAL_KERNELS=0 does without ours\n", name);
        abort();
    }
    return found;
}
