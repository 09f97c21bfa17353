# The memory of the KV cache.

from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

cdef extern from "sys/mman.h" nogil:
    enum:
        MADV_HUGEPAGE
    int madvise(void *address, size_t length, int advice)

cdef dict KV_FORMATS = {"f32": <int>KV_F32, "bf16": <int>KV_BF16, "int8": <int>KV_INT8}


def kv_block_nbytes(str format, shape):
    cdef transformer_shape sizes = shape_of(shape)
    cdef kv_cache cache = kv_cache_of(format, &sizes, 0)
    return 2 * kv_block_bytes_in_all(&cache)


cdef kv_cache kv_cache_of(str format, const transformer_shape *shape, int32_t num_blocks) except *:
    """A cache without memory."""
    cdef kv_cache cache
    cache.format = <kv_format>number_of(KV_FORMATS, format)
    cache.num_layers = shape.num_layers
    cache.num_heads = shape.num_kv_heads
    cache.head_dim = shape.head_dim
    cache.num_blocks = num_blocks
    cache.keys = NULL
    cache.values = NULL
    return cache


cdef void map_kv_cache(kv_cache *cache) except *:
    """Give a cache memory for keys and for values, or for neither.

    Mapped, it is zero, and used only from the first write on: by segments (kv_cache.h).
    """
    cdef size_t length = kv_cache_bytes(cache)
    cache.keys = map_memory(length)
    try:
        cache.values = map_memory(length)
    except MemoryError:
        munmap(cache.keys, length)
        raise


cdef void *map_memory(size_t length) except NULL:
    cdef void *memory = mmap(
        NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if memory is MAP_FAILED:
        raise MemoryError(f"There is no address space for {length} bytes of KV cache.")
    # Large pages are read a quarter faster; that a kernel may have none is no error.
    madvise(memory, length, MADV_HUGEPAGE)
    return memory
