/* llama.cpp's own function of a name that we have, for what ours is not made for. */

#ifndef THEIRS_H
#define THEIRS_H

/* That of the library whose function calls ours, from `caller`; ends the process where there is none. */
__attribute__((visibility("hidden"))) void *theirs(const char *name, void *caller);

#endif
