"""The kernels of the network: weights into panels, a transformer's steps, the sampler.

Converts between Python and the headers in kernels/; the stub beside the package documents it.
One extension, so that there is one pool a process; its parts are in binding/, each for one of
those headers. A part uses what stands before it.
"""

from array import array as _new_array

from cpython cimport array
from cython cimport final
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from kernels cimport *

include "binding/arguments.pxi"
include "binding/cpu_levels.pxi"
include "binding/packing.pxi"
include "binding/compute_pool.pxi"
include "binding/shape.pxi"
include "binding/kv_cache.pxi"
include "binding/sampling.pxi"
include "binding/transformer.pxi"
