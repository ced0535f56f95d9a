//! What this machine could do at most: multiply-adds in registers, and a copy in memory, on every core at once.

use std::hint::black_box;
use std::time::Instant;

use fleetune_engine::ops;
use rayon::prelude::*;

/// The best of so many tries counts.
const TRIES: usize = 5;
/// Rounds of a loop over registers: a few milliseconds.
const ROUNDS: usize = 2_000_000;
/// Numbers of each of the two buffers of a copy, far beyond any cache (256 MiB).
const COPIED: usize = 64 << 20;

/// A loop that computes in registers alone: how many floating-point operations it did.
type Loop = fn() -> u64;

/// The ceilings, per second.
#[derive(Clone, Copy)]
pub(crate) struct Ceiling {
    /// Operations on f32; a fused multiply-add is two.
    pub(crate) flops_f32: f64,
    /// Operations on bf16 that are summed in f32, where the processor has an instruction for them.
    pub(crate) flops_bf16: Option<f64>,
    /// Bytes read and written by a copy.
    pub(crate) bytes: f64,
}

impl Ceiling {
    /// Measures all of them, in about a second.
    pub(crate) fn measure() -> Self {
        let (f32, bf16) = loops();
        Self { flops_f32: flops(f32), flops_bf16: bf16.map(flops), bytes: copied_bytes() }
    }
}

/// Operations per second of `work` on every core at once.
fn flops(work: Loop) -> f64 {
    let rate = |_| {
        let begun = Instant::now();
        let done: u64 = rayon::broadcast(|_| work()).into_iter().sum();
        done as f64 / begun.elapsed().as_secs_f64()
    };
    (0..TRIES).map(rate).fold(0.0, f64::max)
}

fn copied_bytes() -> f64 {
    let (from, mut to) = (vec![1f32; COPIED], vec![0f32; COPIED]);
    let share = COPIED.div_ceil(rayon::current_num_threads());
    let mut rate = |_| {
        let begun = Instant::now();
        let pieces = to.par_chunks_mut(share).zip(from.par_chunks(share));
        pieces.for_each(|(to, from)| to.copy_from_slice(from));
        let bytes = 2 * size_of_val(black_box(&*to));
        bytes as f64 / begun.elapsed().as_secs_f64()
    };
    (0..TRIES).map(&mut rate).fold(0.0, f64::max)
}

/// The widest loops the processor has: f32, and bf16 if any.
fn loops() -> (Loop, Option<Loop>) {
    #[cfg(target_arch = "x86_64")]
    {
        let pairs = is_x86_feature_detected!("avx512bf16").then_some(x86::dpbf16 as Loop);
        let bf16 = ops::has_matrix_registers().then_some(x86::tdpbf16 as Loop).or(pairs);
        if is_x86_feature_detected!("avx512f") {
            return (x86::fma512, bf16);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return (x86::fma256, bf16);
        }
    }
    (plain, None)
}

/// Multiply-adds as the compiler lays them out.
fn plain() -> u64 {
    const LANES: usize = 64;
    let (a, b) = (black_box([0.999f32; LANES]), black_box([1e-3f32; LANES]));
    let mut sums = [0f32; LANES];
    for _ in 0..ROUNDS {
        for ((sum, a), b) in sums.iter_mut().zip(&a).zip(&b) {
            *sum = *sum * a + b;
        }
    }
    black_box(sums);
    (ROUNDS * LANES * 2) as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "instructions that only some processors have")]

    use std::arch::asm;
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_set1_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps,
        _mm512_set1_ps,
    };
    use std::hint::black_box;

    use super::ROUNDS;

    /// Sums that do not wait for each other: enough to keep two units with a latency of five busy, few enough for
    /// sixteen registers.
    const CHAINS: usize = 12;

    /// `CHAINS` chains of the instruction `$step`, which does `$flops` operations at once.
    macro_rules! chains {
        ($name:ident, $inner:ident, $features:literal, $flops:literal, $zero:expr, $operand:expr, $step:expr) => {
            pub(super) fn $name() -> u64 {
                // SAFETY: `loops` asked the processor for these features.
                unsafe { $inner() }
            }

            #[target_feature(enable = $features)]
            fn $inner() -> u64 {
                let operand = black_box($operand);
                let mut sums = [$zero; CHAINS];
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $step(*sum, operand);
                    }
                }
                black_box(sums);
                (ROUNDS * CHAINS * $flops) as u64
            }
        };
    }

    chains!(
        fma256,
        fma256_inner,
        "avx2,fma",
        16,
        _mm256_set1_ps(0.0),
        _mm256_set1_ps(0.5),
        |sum, x| { _mm256_fmadd_ps(sum, x, x) }
    );
    chains!(
        fma512,
        fma512_inner,
        "avx512f",
        32,
        _mm512_set1_ps(0.0),
        _mm512_set1_ps(0.5),
        |sum, x| { _mm512_fmadd_ps(sum, x, x) }
    );
    chains!(
        dpbf16,
        dpbf16_inner,
        "avx512f,avx512bf16",
        64,
        _mm512_set1_ps(0.0),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5)),
        |sum, x| _mm512_dpbf16_ps(sum, x, x)
    );

    /// Shapes of the eight matrix registers, as `LDTILECFG` reads them: 16 rows of 64 bytes each.
    #[repr(align(64))]
    struct Shapes([u8; 64]);

    /// Six chains of products of 16 × 32 and 32 × 16 numbers.
    pub(super) fn tdpbf16() -> u64 {
        const FLOPS: usize = 2 * 16 * 32 * 16;
        let rounds = ROUNDS / 8;
        let mut shapes = Shapes([0; 64]);
        shapes.0[0] = 1;
        for register in 0..8 {
            shapes.0[16 + 2 * register] = 64;
            shapes.0[48 + register] = 16;
        }
        // SAFETY: `loops` asked for the registers; the configuration sets them to zero, and they are let go of.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                "2:",
                "tdpbf16ps tmm0, tmm6, tmm7",
                "tdpbf16ps tmm1, tmm6, tmm7",
                "tdpbf16ps tmm2, tmm6, tmm7",
                "tdpbf16ps tmm3, tmm6, tmm7",
                "tdpbf16ps tmm4, tmm6, tmm7",
                "tdpbf16ps tmm5, tmm6, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                shapes = in(reg) &shapes,
                rounds = inout(reg) rounds => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        (rounds * 6 * FLOPS) as u64
    }
}
