//! PyTorch's mean, bit for bit.
//!
//! Double quantization subtracts the mean of all block maxima before it encodes them and stores it as the offset, so
//! a mean that differs in its last bit gives other codes. PyTorch sums a contiguous run in eight lanes times four
//! accumulators, and each of those in a cascade of four levels (`aten/src/ATen/native/cpu/SumKernel.cpp`).

const LANES: usize = 8;
const ACCUMULATORS: usize = 4;
const LEVELS: usize = 4;

type Sums = [[f32; LANES]; ACCUMULATORS];

fn add(sums: &mut Sums, terms: &Sums) {
    for (sums, terms) in sums.iter_mut().zip(terms) {
        add_lanes(sums, terms);
    }
}

fn add_lanes(sums: &mut [f32; LANES], terms: &[f32; LANES]) {
    sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}

/// The mean in f32, as `Tensor.mean()` gives it on one thread; NaN for none.
pub(super) fn mean(values: &[f32]) -> f32 {
    sum(values) / values.len() as f32
}

fn sum(values: &[f32]) -> f32 {
    let (rows, rest) = values.as_chunks::<LANES>();
    let (groups, single) = rows.as_chunks::<ACCUMULATORS>();
    let [mut total, others @ ..] = cascade(groups);
    single.iter().for_each(|row| add_lanes(&mut total, row));
    others.iter().for_each(|row| add_lanes(&mut total, row));
    rest.iter().chain(&total).fold(0.0, |sum, x| sum + x)
}

/// Long runs go up a level after every `2^power` terms, so that no sum grows far beyond its terms.
fn cascade(groups: &[Sums]) -> Sums {
    let ceil_log2 = groups.len().max(1).next_power_of_two().ilog2();
    let power = (ceil_log2 / LEVELS as u32).max(4);
    let step = 1_usize << power;
    let mut levels = [Sums::default(); LEVELS];
    let whole = groups.chunks_exact(step);
    let rest = whole.remainder();
    for (index, group) in (1..).zip(whole) {
        group.iter().for_each(|terms| add(&mut levels[0], terms));
        let done: usize = index * step;
        for level in 1..LEVELS {
            let lower = std::mem::take(&mut levels[level - 1]);
            add(&mut levels[level], &lower);
            if done & ((step - 1) << (level as u32 * power)) != 0 {
                break;
            }
        }
    }
    rest.iter().for_each(|terms| add(&mut levels[0], terms));
    let [mut sums, higher @ ..] = levels;
    higher.iter().for_each(|level| add(&mut sums, level));
    sums
}
