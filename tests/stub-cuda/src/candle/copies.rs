//! Numbers that are moved or set as they are: only their size matters.

use super::number::with_type;
use super::{Arguments, Run};

pub(super) fn find(does: &str, dtype: &str) -> Option<Run> {
    with_type!(
        dtype,
        [
            "u8" = u8,
            "f16" = u16,
            "bf16" = u16,
            "u32" = u32,
            "f32" = u32,
            "i64" = u64,
            "f64" = u64
        ],
        T => match does {
            "copy2d" => copy2d::<T>(),
            "ucopy" => copy::<T>(),
            "const_set" => set::<T>(),
            _ => return None,
        }
    )
}

/// `from, to, rows, columns` and how far it is from row to row in each.
fn copy2d<T: Copy + 'static>() -> Run {
    Box::new(|args| {
        let (from, to): (*const T, *mut T) = (args.get(0), args.get(1));
        let [rows, columns, from_step, to_step] =
            [2, 3, 4, 5].map(|place| args.get::<u32>(place) as usize);
        for row in 0..rows {
            // SAFETY: who made the arguments promised that so many numbers lie there. Rows may overlap only as they
            // may on a card, where nobody says what comes of it.
            unsafe { to.add(row * to_step).copy_from(from.add(row * from_step), columns) };
        }
    })
}

/// `count, rank, list, from, to`: from wherever they lie to close together.
fn copy<T: Copy + 'static>() -> Run {
    Box::new(|args| {
        let from: *const T = args.get(3);
        args.fill(&args.walk(2, args.get(0)), 4, |[place]| Arguments::number(from, place));
    })
}

/// `count, rank, list, value, to`: the same value wherever they lie.
fn set<T: Copy + 'static>() -> Run {
    Box::new(|args| {
        let (value, to): (T, *mut T) = (args.get(3), args.get(4));
        // SAFETY: who made the arguments promised that the tensor's numbers are there.
        args.walk(2, args.get(0)).each(|_, [place]| unsafe { to.add(place).write(value) });
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, run};

    #[test]
    fn a_transposed_matrix_is_copied_row_by_row() {
        let from: [f32; 6] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let mut to = [f32::NAN; 6];
        // Two rows of three become three of two: dimensions, then strides.
        let list: [usize; 4] = [3, 2, 1, 3];
        let (list, from, out) = (list.as_ptr(), from.as_ptr(), to.as_mut_ptr());
        run("ucopy_f32", [at(&6usize), at(&2usize), at(&list), at(&from), at(&out)]);
        assert_eq!(to, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn rows_are_copied_from_wider_to_narrower() {
        let from: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
        let mut to = [0u8; 6];
        let (from, out) = (from.as_ptr(), to.as_mut_ptr());
        let [rows, columns, wide, narrow] = [2u32, 2, 4, 3];
        let sizes = [at(&rows), at(&columns), at(&wide), at(&narrow)];
        run("copy2d_u8", [at(&from), at(&out), sizes[0], sizes[1], sizes[2], sizes[3]]);
        assert_eq!(to, [1, 2, 0, 5, 6, 0]);
    }

    #[test]
    fn a_value_is_set_where_the_tensor_lies_and_nowhere_else() {
        let mut to = [0.0f64; 6];
        let out = to.as_mut_ptr();
        let list: [usize; 4] = [2, 2, 3, 1];
        let (list, value) = (list.as_ptr(), 7.0f64);
        run("const_set_f64", [at(&4usize), at(&2usize), at(&list), at(&value), at(&out)]);
        assert_eq!(to, [7.0, 7.0, 0.0, 7.0, 7.0, 0.0]);

        let close: *const usize = std::ptr::null();
        run("const_set_f64", [at(&3usize), at(&1usize), at(&close), at(&1.0f64), at(&out)]);
        assert_eq!(to, [1.0, 1.0, 1.0, 7.0, 7.0, 0.0]);
    }
}
