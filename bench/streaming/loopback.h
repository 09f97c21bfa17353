/* loopback: TCP sockets on 127.0.0.1 for the programs of this folder. They send at once. */
#ifndef LOOPBACK_H
#define LOOPBACK_H

/* A connection that blocks until it is open and never after; -1 with errno if there is none. */
int loopback_connect(int port);

/* A listener that never blocks; -1 with errno if it cannot be. */
int loopback_listen(int port);

/* The next connection of a listener, which never blocks either; -1 if none is waiting. */
int loopback_accept(int listener);

#endif
