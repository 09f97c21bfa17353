# Weights into panels.


def packed_nbytes(str format, num_columns, depth):
    cdef weight_format into = <weight_format>number_of(WEIGHT_FORMATS, format)
    cdef size_t num_panels = matrix_num_panels(size_of(num_columns, "num_columns"))
    return num_panels * matrix_panel_bytes(into, width_of(depth, "depth"))


def pack(str format, source, num_columns, depth, out, *, str stored="f32",
         int32_t panel_stride=1):
    cdef weight_format into = <weight_format>number_of(WEIGHT_FORMATS, format)
    cdef unsigned char[::1] panels = memoryview(out).cast("B")
    cdef int32_t columns = size_of(num_columns, "num_columns")
    cdef int32_t inputs = width_of(depth, "depth")
    cdef size_t num_groups = <size_t>columns * <size_t>(inputs // GROUP_SIZE)
    cdef size_t num_panels = matrix_num_panels(columns)
    cdef const unsigned char[::1] values = bytes_of(
        source, num_groups * <size_t>number_of(STORED_GROUP_BYTES, stored), "source"
    )
    if panel_stride < 1:
        raise ValueError(f"panel_stride must be at least 1, not {panel_stride}.")
    num_panels = (num_panels - 1) * <size_t>panel_stride + 1
    if <size_t>panels.shape[0] // matrix_panel_bytes(into, inputs) < num_panels:
        raise ValueError(f"out has {panels.shape[0]} bytes, which is too few.")
    if stored == "f32":
        pack_values(into, <const float *>&values[0], columns, inputs, panel_stride, &panels[0])
    else:
        pack_codes(stored, into, &values[0], columns, inputs, panel_stride, &panels[0])


cdef void pack_values(weight_format into, const float *values, int32_t num_columns,
                      int32_t depth, int32_t panel_stride, void *panels) noexcept:
    with nogil:
        if into == WEIGHTS_F32:
            pack_f32(values, num_columns, depth, panel_stride, panels)
        elif into == WEIGHTS_BF16:
            pack_bf16(values, num_columns, depth, panel_stride, panels)
        elif into == WEIGHTS_Q8:
            pack_q8(values, num_columns, depth, panel_stride, panels)
        else:
            pack_q4(values, num_columns, depth, panel_stride, panels)


cdef void pack_codes(str stored, weight_format into, const void *codes, int32_t num_columns,
                     int32_t depth, int32_t panel_stride, void *panels) except *:
    cdef pack_blocks *packer
    if stored == "Q8_0" and into == WEIGHTS_Q8:
        packer = pack_q8_0
    elif stored == "Q4_0" and into == WEIGHTS_Q4:
        packer = pack_q4_0
    elif stored == "Q4_1" and into == WEIGHTS_Q4:
        packer = pack_q4_1
    else:
        raise ValueError(f"{stored} codes cannot be taken over into this format.")
    with nogil:
        packer(codes, num_columns, depth, panel_stride, panels)
