# For C code that reads or fills rings without Python: cimport TokenRing and use `ring` with
# the functions of csrc/token_ring.h, which are compiled into each extension that does so.
from token_ring cimport token_ring

cdef class TokenRing:
    cdef token_ring *ring  # owned: one reference, never NULL once made
