//! Sums and extremes over the last dimensions, to which candle moves those it reduces.

use half::bf16;

use super::number::{Number, with_type};
use super::{Arguments, Run};

/// What a number is folded into, and what is there before the first.
#[derive(Clone, Copy)]
struct Fold {
    first: f64,
    with: fn(f64, f64) -> f64,
    /// Whether the kernel is told how many numbers there are after it, not before.
    counts_after: bool,
}

pub(super) fn find(does: &str, dtype: &str) -> Option<Run> {
    let sum = Fold { first: 0.0, with: |x, y| x + y, counts_after: false };
    let fold = match does {
        "fast_sum" => sum,
        "fast_sum_small" => Fold { counts_after: true, ..sum },
        "fast_max" => Fold { first: f64::NEG_INFINITY, with: f64::max, ..sum },
        "fast_min" => Fold { first: f64::INFINITY, with: f64::min, ..sum },
        _ => return None,
    };
    with_type!(dtype, ["f32" = f32, "bf16" = bf16, "f64" = f64], T => reduce::<T>(fold))
}

/// `count, numbers of one result, rank, list, from, to`.
fn reduce<T: Number>(fold: Fold) -> Run {
    Box::new(move |args| {
        let (count, each): (usize, usize) = (args.get(0), args.get(1));
        let results = if fold.counts_after { count } else { count / each.max(1) };
        let from: *const T = args.get(4);
        let mut folded = vec![fold.first; results];
        args.walk(3, results * each).each(|i, [place]| {
            let x = Arguments::number(from, place).to_f64();
            folded[i / each] = (fold.with)(folded[i / each], x);
        });
        let to: *mut T = args.get(5);
        for (i, x) in folded.into_iter().enumerate() {
            // SAFETY: who made the arguments promised room for the results.
            unsafe { to.add(i).write(T::from_f64(x)) };
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, run};

    #[test]
    fn columns_are_reduced_when_their_dimension_comes_last() {
        let from = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        // Two rows of three, of which the rows are reduced.
        let list: [usize; 4] = [3, 2, 1, 3];
        for (name, count, expected) in [
            ("fast_sum_f32", 6usize, [5.0, 7.0, 9.0]),
            ("fast_sum_small_f32", 3, [5.0, 7.0, 9.0]),
            ("fast_max_f32", 6, [4.0, 5.0, 6.0]),
            ("fast_min_f32", 6, [1.0, 2.0, 3.0]),
        ] {
            let mut to = [f32::NAN; 3];
            let (list, source, out) = (list.as_ptr(), from.as_ptr(), to.as_mut_ptr());
            run(name, [at(&count), at(&2usize), at(&2usize), at(&list), at(&source), at(&out)]);
            assert_eq!(to, expected, "{name}");
        }
    }
}
