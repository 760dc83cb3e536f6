/* llama.cpp's own function of a name that we have, for what ours is not made for. */

#ifndef THEIRS_H
#define THEIRS_H

/* That of the library whose function calls ours, from `caller`; ends the process where there is none. */
__attribute__((visibility("hidden"))) void *theirs(const char *name, void *caller);

/* The same, to be kept in the static pointer `own`; two threads that look for it find the same. */
#define FIND_THEIRS(own, name) ((own) = (own) ? (own) : theirs(name, __builtin_return_address(0)))

#endif
