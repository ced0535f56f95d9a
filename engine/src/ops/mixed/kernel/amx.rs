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
pub(super) const DEEP: usize = 32;
const PAIRS: usize = DEEP / 2;

/// Of the nearest cache (48 KiB) what a left factor's rows may take.
const NEAREST_BYTES: usize = 40 << 10;

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

/// How `LDTILECFG` wants it: the shapes of the eight registers.
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
        let done = strip.left.pairs / PAIRS * PAIRS;
        let numbers = 2 * (strip.left.pairs - done);
        for (row, to) in rest.left[..rows].iter_mut().enumerate() {
            let at = (from + row) * strip.left.stride + 2 * done;
            to[..numbers].copy_from_slice(&strip.left.numbers[at..at + numbers]);
        }
        let (done, numbers) = (2 * done * registers * LANES, numbers * registers * LANES);
        rest.panel[..numbers].copy_from_slice(&strip.panel[done..done + numbers]);
        rest
    }
}

/// Sets this thread up for [`sums`]; only where [`there`] holds.
pub(super) fn begin() {
    shape(&Shapes::of(HIGH));
}

fn shape(shapes: &Shapes) {
    #[expect(unsafe_code, reason = "the instruction has no safe form")]
    // SAFETY: the machine was asked; the registers are nobody else's.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack));
    }
}

/// Lets go of the registers, which a change of threads would have to save.
pub(super) fn end() {
    #[expect(unsafe_code, reason = "the instruction has no safe form")]
    // SAFETY: as in `shape`.
    unsafe {
        asm!("tilerelease", options(nostack));
    }
}

/// Fills the first `rows` of `sums`; only between [`begin`] and [`end`], and where the strips hold what
/// is asked.
pub(super) fn sums(rows: usize, registers: usize, strips: &[Strip<'_>], sums: &mut Sums) {
    let mut from = 0;
    while from < rows {
        let here = if rows - from == ROWS { ROWS } else { HIGH.min(rows - from) };
        if here < HIGH {
            shape(&Shapes::of(here));
        }
        block((from, here), registers, strips, &mut sums.0[from..from + here]);
        if here < HIGH {
            begin();
        }
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
        let any = !strip.left.pairs.is_multiple_of(PAIRS);
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
        add(
            &strip.left.numbers[from * strip.left.stride..],
            strip.left.stride,
            strip.panel,
            strip.left.pairs / PAIRS,
        );
        if let Some(Rest { left, panel }) = rest {
            add(left.as_flattened(), DEEP, panel, 1);
        }
    }
    let runs = &runs[..count];
    let deep: usize = strips.iter().map(|strip| 2 * strip.left.pairs).sum();
    let rows_stay = ROWS * deep * size_of::<bf16>() <= NEAREST_BYTES;
    #[expect(unsafe_code, reason = "the instructions have no safe form")]
    // SAFETY: the machine was asked, `Work` measured the slices, and `sums` has as many rows as are stored.
    unsafe {
        match (rows > HIGH, registers) {
            (true, 3) if rows_stay => two_by_three_past(runs, sums),
            (true, 3) => two_by_three(runs, sums),
            (true, 2) => two_by_two(runs, sums),
            (true, _) => two_by_one(runs, sums),
            (false, 3) => one_by_three(runs, sums),
            (false, 2) => one_by_two(runs, sums),
            (false, _) => one_by_one(runs, sums),
        }
    }
}

/// A kernel: its registers side by side, what one step does, and which registers are the upper rows' sums and the lower
/// rows', at which byte of a row.
///
/// Of the left factor's rows `{l}` is the first and `{h}` the seventeenth, `{s}` bytes apart; of the panel's `{p}` is
/// the first pair, `{w}` bytes from the next.
macro_rules! kernel {
    ($name:ident, $registers:literal, [$($step:expr),*], [$(($upper:literal, $u:literal)),*], [$(($lower:literal, $l:literal)),*]) => {
        /// # Safety
        /// The machine must have the instructions, and every run the rows and pairs that are read.
        #[expect(unsafe_code, reason = "the instructions have no safe form")]
        unsafe fn $name(runs: &[Run], sums: &mut [[f32; COLUMNS]]) {
            // SAFETY: as the caller promised; nothing else is written than `sums` and the registers named.
            unsafe {
                asm!(
                    // Not every kernel has lower rows.
                    "# {lower}",
                    $(concat!("tilezero tmm", $upper),)*
                    $(concat!("tilezero tmm", $lower),)*
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
                    $(concat!("tilestored [{upper} + {line} + ", $u, "], tmm", $upper),)*
                    $(concat!("tilestored [{lower} + {line} + ", $l, "], tmm", $lower),)*
                    run = inout(reg) runs.as_ptr() => _,
                    count = inout(reg) runs.len() => _,
                    upper = in(reg) sums.as_mut_ptr(),
                    lower = in(reg) sums.as_mut_ptr().wrapping_add(HIGH),
                    l = out(reg) _,
                    h = out(reg) _,
                    s = out(reg) _,
                    p = out(reg) _,
                    n = out(reg) _,
                    w = in(reg) $registers * 4 * LANES,
                    deep = const PAIRS * $registers * 4 * LANES,
                    line = in(reg) 4 * COLUMNS,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

/// The kernel that most tiles take, with one way or another to load panels.
macro_rules! two_by_three {
    ($name:ident, $load:literal) => {
        kernel!(
            $name,
            3,
            [
                "tileloadd tmm6, [{l} + {s}]",
                concat!($load, " tmm7, [{p} + {w}]"),
                "tdpbf16ps tmm0, tmm6, tmm7",
                concat!($load, " tmm7, [{p} + {w} + 64]"),
                "tdpbf16ps tmm1, tmm6, tmm7",
                concat!($load, " tmm7, [{p} + {w} + 128]"),
                "tdpbf16ps tmm2, tmm6, tmm7",
                "tileloadd tmm6, [{h} + {s}]",
                "tdpbf16ps tmm5, tmm6, tmm7",
                concat!($load, " tmm7, [{p} + {w}]"),
                "tdpbf16ps tmm3, tmm6, tmm7",
                concat!($load, " tmm7, [{p} + {w} + 64]"),
                "tdpbf16ps tmm4, tmm6, tmm7"
            ],
            [("0", "0"), ("1", "64"), ("2", "128")],
            [("3", "0"), ("4", "64"), ("5", "128")]
        );
    };
}
// Panels pass the nearest cache by, where it has room for the left factor's rows, which are read again.
two_by_three!(two_by_three_past, "tileloaddt1");
two_by_three!(two_by_three, "tileloadd");
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
    [("0", "0"), ("1", "64")],
    [("3", "0"), ("4", "64")]
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
    [("0", "0")],
    [("3", "0")]
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
    [("0", "0"), ("1", "64"), ("2", "128")],
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
    [("0", "0"), ("1", "64")],
    []
);
kernel!(
    one_by_one,
    1,
    ["tileloadd tmm6, [{l} + {s}]", "tileloadd tmm7, [{p} + {w}]", "tdpbf16ps tmm0, tmm6, tmm7"],
    [("0", "0")],
    []
);
