// The table of one instruction set and element type. See instantiate.h for the names.

const attn_kernels NAME(kernels) = {
    .maximum = NAME(maximum),
    .exponential_sum = NAME(exponential_sum),
    .scale = NAME(scale),
    .add_bias = NAME(add_bias),
    .mask = NAME(mask),
    .is_finite = NAME(is_finite),
    .exp2 = NAME(exp2_array),
    .softmax_rows = NAME(softmax_rows),
    .dot_rows = NAME(dot_rows),
    .accumulate_rows = NAME(accumulate_rows),
    .lane_count = LANES,
    .panel_vector_count = PANEL,
    .pack = NAME(pack),
    .unpack = NAME(unpack),
    .multiply = NAME(multiply),
    .softmax_lanes = NAME(softmax_lanes),
    .softcap = NAME(softcap),
    .distance_lanes = NAME(distance_lanes),
    .distance_rows = NAME(distance_rows),
    HALVES,
};
