//! With matrix registers (Intel AMX), 16 × 16 sums in each: two rows of three of them at a time, 32 numbers deep.
//!
//! A matrix register is loaded by rows with a stride, so both factors are read where they lie. What is left of their
//! depth is copied and filled up with zeros.

use std::arch::asm;
use std::ptr;
use std::sync::OnceLock;

use half::bf16;

use super::{COLUMNS, LANES, ROWS, Strip, Sums};

/// Rows of a matrix register.
const HIGH: usize = 16;
/// Numbers of one of its rows, and pairs of them.
const DEEP: usize = 32;
const PAIRS: usize = DEEP / 2;

/// Whether this machine has it and the system lets this process use it.
pub(super) fn there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| supported() && permitted())
}

fn supported() -> bool {
    const TILES: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    std::arch::x86_64::__cpuid_count(7, 0).edx & (TILES | BF16) == TILES | BF16
        && is_x86_feature_detected!("avx512f")
}

/// Linux keeps room for these registers only in processes that ask (`ARCH_REQ_XCOMP_PERM`), for all threads at once.
#[expect(unsafe_code, reason = "a system call without a safe form")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    // SAFETY: it changes nothing in memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// How `LDTILECFG` wants it: the shapes of the eight registers. It also sets them to zero.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Sums and left factor of so many rows, the right factor whole.
    fn of(rows: usize) -> Self {
        let mut shapes =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        shapes.row_bytes[..8].fill(64);
        shapes.rows[..8].fill(HIGH as u8);
        if rows < HIGH {
            shapes.rows[..3].fill(rows as u8);
            shapes.rows[6] = rows as u8;
        }
        shapes
    }
}

/// Steps of [`DEEP`] numbers along a product; what the kernels read of it they read by its place.
#[repr(C)]
#[derive(Clone, Copy)]
struct Run {
    left: *const bf16,
    /// Bytes from one of its rows to the next.
    stride: usize,
    panel: *const bf16,
    steps: usize,
}

/// The end of a strip's depth, filled up with zeros.
#[repr(align(64))]
struct Rest {
    left: [[bf16; DEEP]; ROWS],
    panel: [bf16; DEEP * COLUMNS],
}

impl Rest {
    fn of(strip: &Strip<'_>, from: usize, rows: usize, registers: usize) -> Self {
        let mut rest =
            Self { left: [[bf16::ZERO; DEEP]; ROWS], panel: [bf16::ZERO; DEEP * COLUMNS] };
        let done = strip.pairs / PAIRS * PAIRS;
        let numbers = 2 * (strip.pairs - done);
        for (row, to) in rest.left[..rows].iter_mut().enumerate() {
            let at = (from + row) * strip.stride + 2 * done;
            to[..numbers].copy_from_slice(&strip.left[at..at + numbers]);
        }
        let (done, numbers) = (2 * done * registers * LANES, numbers * registers * LANES);
        rest.panel[..numbers].copy_from_slice(&strip.panel[done..done + numbers]);
        rest
    }
}

/// Fills the first `rows` of `sums`; only where [`there`] holds and the strips hold what is asked.
pub(super) fn sums(rows: usize, registers: usize, strips: &[Strip<'_>], sums: &mut Sums) {
    let mut from = 0;
    while from < rows {
        let here = if rows - from == ROWS { ROWS } else { HIGH.min(rows - from) };
        block((from, here), registers, strips, &mut sums.0[from..from + here]);
        from += here;
    }
}

/// Rows `from..from + rows` of a tile, at most [`HIGH`] or all.
fn block(
    (from, rows): (usize, usize),
    registers: usize,
    strips: &[Strip<'_>],
    sums: &mut [[f32; COLUMNS]],
) {
    let rest = |strip: &Strip<'_>| {
        let any = strip.pairs % PAIRS > 0;
        any.then(|| Rest::of(strip, from, rows, registers))
    };
    // A tile sums one product or two.
    let rests = [strips.first().and_then(rest), strips.get(1).and_then(rest)];
    let mut runs = [Run { left: ptr::null(), stride: 0, panel: ptr::null(), steps: 0 }; 4];
    let mut count = 0;
    let mut add = |left: &[bf16], stride: usize, panel: &[bf16], steps: usize| {
        if steps > 0 {
            let (left, panel) = (left.as_ptr(), panel.as_ptr());
            runs[count] = Run { left, stride: 2 * stride, panel, steps };
            count += 1;
        }
    };
    for (strip, rest) in strips.iter().zip(&rests) {
        add(&strip.left[from * strip.stride..], strip.stride, strip.panel, strip.pairs / PAIRS);
        if let Some(Rest { left, panel }) = rest {
            add(left.as_flattened(), DEEP, panel, 1);
        }
    }
    let (runs, shapes) = (&runs[..count], Shapes::of(rows));
    #[expect(unsafe_code, reason = "the instructions have no safe form")]
    // SAFETY: the machine was asked, `tile` measured the slices, and `sums` has as many rows as are stored.
    unsafe {
        match (rows > HIGH, registers) {
            (true, 3) => two_by_three(runs, &shapes, sums),
            (true, 2) => two_by_two(runs, &shapes, sums),
            (true, _) => two_by_one(runs, &shapes, sums),
            (false, 3) => one_by_three(runs, &shapes, sums),
            (false, 2) => one_by_two(runs, &shapes, sums),
            (false, _) => one_by_one(runs, &shapes, sums),
        }
    }
}

/// A kernel: its registers side by side, what one step does, and what is stored.
///
/// Of the left factor's rows `{l}` is the first and `{h}` the seventeenth, `{s}` bytes apart; of the panel's `{p}` is
/// the first pair, `{w}` bytes from the next.
macro_rules! kernel {
    ($name:ident, $registers:literal, [$($step:literal),*], [$($upper:literal),*], [$($lower:literal),*]) => {
        /// # Safety
        /// The machine must have the instructions, and every run the rows and pairs that are read.
        #[expect(unsafe_code, reason = "the instructions have no safe form")]
        unsafe fn $name(runs: &[Run], shapes: &Shapes, sums: &mut [[f32; COLUMNS]]) {
            // SAFETY: as the caller promised; nothing else is written than `sums` and the registers named.
            unsafe {
                asm!(
                    "ldtilecfg [{shapes}]",
                    "2:",
                    "test {count}, {count}",
                    "jz 4f",
                    "mov {l}, [{run}]",
                    "mov {s}, [{run} + 8]",
                    "mov {p}, [{run} + 16]",
                    "mov {n}, [{run} + 24]",
                    "mov {h}, {s}",
                    "shl {h}, 4",
                    "add {h}, {l}",
                    "3:",
                    $($step,)*
                    "add {l}, 64",
                    "add {h}, 64",
                    "add {p}, {deep}",
                    "dec {n}",
                    "jnz 3b",
                    "add {run}, 32",
                    "dec {count}",
                    "jmp 2b",
                    "4:",
                    $($upper,)*
                    "add {out}, {half}",
                    $($lower,)*
                    "tilerelease",
                    shapes = in(reg) shapes,
                    run = inout(reg) runs.as_ptr() => _,
                    count = inout(reg) runs.len() => _,
                    out = inout(reg) sums.as_mut_ptr() => _,
                    l = out(reg) _,
                    h = out(reg) _,
                    s = out(reg) _,
                    p = out(reg) _,
                    n = out(reg) _,
                    w = in(reg) $registers * 4 * LANES,
                    deep = const PAIRS * $registers * 4 * LANES,
                    half = const HIGH * 4 * COLUMNS,
                    line = in(reg) 4 * COLUMNS,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

kernel!(
    two_by_three,
    3,
    [
        "tileloadd tmm6, [{l} + {s}]",
        "tileloadd tmm7, [{p} + {w}]",
        "tdpbf16ps tmm0, tmm6, tmm7",
        "tileloadd tmm7, [{p} + {w} + 64]",
        "tdpbf16ps tmm1, tmm6, tmm7",
        "tileloadd tmm7, [{p} + {w} + 128]",
        "tdpbf16ps tmm2, tmm6, tmm7",
        "tileloadd tmm6, [{h} + {s}]",
        "tdpbf16ps tmm5, tmm6, tmm7",
        "tileloadd tmm7, [{p} + {w}]",
        "tdpbf16ps tmm3, tmm6, tmm7",
        "tileloadd tmm7, [{p} + {w} + 64]",
        "tdpbf16ps tmm4, tmm6, tmm7"
    ],
    [
        "tilestored [{out} + {line}], tmm0",
        "tilestored [{out} + {line} + 64], tmm1",
        "tilestored [{out} + {line} + 128], tmm2"
    ],
    [
        "tilestored [{out} + {line}], tmm3",
        "tilestored [{out} + {line} + 64], tmm4",
        "tilestored [{out} + {line} + 128], tmm5"
    ]
);
kernel!(
    two_by_two,
    2,
    [
        "tileloadd tmm6, [{l} + {s}]",
        "tileloadd tmm7, [{p} + {w}]",
        "tdpbf16ps tmm0, tmm6, tmm7",
        "tileloadd tmm5, [{h} + {s}]",
        "tdpbf16ps tmm3, tmm5, tmm7",
        "tileloadd tmm2, [{p} + {w} + 64]",
        "tdpbf16ps tmm1, tmm6, tmm2",
        "tdpbf16ps tmm4, tmm5, tmm2"
    ],
    ["tilestored [{out} + {line}], tmm0", "tilestored [{out} + {line} + 64], tmm1"],
    ["tilestored [{out} + {line}], tmm3", "tilestored [{out} + {line} + 64], tmm4"]
);
kernel!(
    two_by_one,
    1,
    [
        "tileloadd tmm6, [{l} + {s}]",
        "tileloadd tmm7, [{p} + {w}]",
        "tdpbf16ps tmm0, tmm6, tmm7",
        "tileloadd tmm5, [{h} + {s}]",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    ["tilestored [{out} + {line}], tmm0"],
    ["tilestored [{out} + {line}], tmm3"]
);
kernel!(
    one_by_three,
    3,
    [
        "tileloadd tmm6, [{l} + {s}]",
        "tileloadd tmm7, [{p} + {w}]",
        "tdpbf16ps tmm0, tmm6, tmm7",
        "tileloadd tmm5, [{p} + {w} + 64]",
        "tdpbf16ps tmm1, tmm6, tmm5",
        "tileloadd tmm4, [{p} + {w} + 128]",
        "tdpbf16ps tmm2, tmm6, tmm4"
    ],
    [
        "tilestored [{out} + {line}], tmm0",
        "tilestored [{out} + {line} + 64], tmm1",
        "tilestored [{out} + {line} + 128], tmm2"
    ],
    []
);
kernel!(
    one_by_two,
    2,
    [
        "tileloadd tmm6, [{l} + {s}]",
        "tileloadd tmm7, [{p} + {w}]",
        "tdpbf16ps tmm0, tmm6, tmm7",
        "tileloadd tmm5, [{p} + {w} + 64]",
        "tdpbf16ps tmm1, tmm6, tmm5"
    ],
    ["tilestored [{out} + {line}], tmm0", "tilestored [{out} + {line} + 64], tmm1"],
    []
);
kernel!(
    one_by_one,
    1,
    ["tileloadd tmm6, [{l} + {s}]", "tileloadd tmm7, [{p} + {w}]", "tdpbf16ps tmm0, tmm6, tmm7"],
    ["tilestored [{out} + {line}], tmm0"],
    []
);
