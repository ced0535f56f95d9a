//! The kernels' source as one text, as NVRTC compiles it.

/// `device.cuh` and every kernel.
pub(super) const SOURCE: &str = concat!(
    include_str!("../../../kernels/device.cuh"),
    include_str!("../../../kernels/adamw.cu"),
    include_str!("../../../kernels/attention.cu"),
    include_str!("../../../kernels/cross_entropy.cu"),
    include_str!("../../../kernels/dropout.cu"),
    include_str!("../../../kernels/four_bit.cu"),
    include_str!("../../../kernels/gated.cu"),
    include_str!("../../../kernels/norm.cu"),
    include_str!("../../../kernels/rope.cu"),
    include_str!("../../../kernels/rows.cu"),
    include_str!("../../../kernels/soft_cap.cu"),
    include_str!("../../../kernels/squares.cu"),
);
