# The CPU levels by their names.


def cpu_levels():
    cdef int level
    return tuple(
        cpu_level_name(<cpu_level>level).decode()
        for level in range(<int>cpu_level_best() + 1)
        if kernel_ops_for(<cpu_level>level) is not NULL
    )


cdef const kernel_ops *ops_of(str name) except NULL:
    cdef int level
    for level in range(<int>cpu_level_best() + 1):
        if cpu_level_name(<cpu_level>level).decode() == name:
            if kernel_ops_for(<cpu_level>level) is not NULL:
                return kernel_ops_for(<cpu_level>level)
    raise ValueError(f"There is no CPU level {name!r} here, only {', '.join(cpu_levels())}.")
