//! The numbers of tensors that do not lie close.

/// All numbers of a shape in order, and where each lies in `N` tensors.
pub(super) struct Walk<'a, const N: usize> {
    pub(super) count: usize,
    /// The dimensions and each tensor's strides; none when all lie close.
    pub(super) strided: Option<(&'a [usize], [&'a [usize]; N])>,
}

impl<const N: usize> Walk<'_, N> {
    /// Visits them: the how-manieth it is, and where it lies in each tensor.
    pub(super) fn each(&self, mut visit: impl FnMut(usize, [usize; N])) {
        let Some((dims, strides)) = self.strided else {
            return (0..self.count).for_each(|i| visit(i, [i; N]));
        };
        let Some((&inner, outer)) = dims.split_last() else {
            return (0..self.count).for_each(|i| visit(i, [0; N]));
        };
        let steps = strides.map(|strides| strides[outer.len()]);
        let mut index = vec![0; outer.len()];
        let mut begin = [0; N];
        let mut i = 0;
        while i < self.count {
            for j in 0..inner {
                visit(i + j, std::array::from_fn(|tensor| begin[tensor] + j * steps[tensor]));
            }
            i += inner;
            // On to the next row, and over to the next of what is around it when there is none.
            for d in (0..outer.len()).rev() {
                index[d] += 1;
                let over = index[d] == outer[d];
                for (begin, strides) in begin.iter_mut().zip(strides) {
                    *begin += strides[d];
                    if over {
                        *begin -= strides[d] * outer[d];
                    }
                }
                if !over {
                    break;
                }
                index[d] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `get_strided_index` in candle's kernels.
    fn place(mut i: usize, dims: &[usize], strides: &[usize]) -> usize {
        let mut place = 0;
        for (dim, stride) in dims.iter().zip(strides).rev() {
            place += (i % dim) * stride;
            i /= dim;
        }
        place
    }

    #[test]
    fn it_goes_where_candle_goes() {
        let cases: [(&[usize], [&[usize]; 2]); 5] = [
            (&[5], [&[1], &[3]]),
            (&[2, 3], [&[3, 1], &[1, 2]]),
            (&[4, 1, 3], [&[0, 7, 1], &[3, 0, 0]]),
            (&[2, 3, 2, 2], [&[100, 1, 10, 5], &[0, 2, 0, 1]]),
            (&[], [&[], &[]]),
        ];
        for (dims, strides) in cases {
            let count = dims.iter().product();
            let mut visited = Vec::new();
            Walk { count, strided: Some((dims, strides)) }.each(|i, at| visited.push((i, at)));
            let expected: Vec<_> =
                (0..count).map(|i| (i, strides.map(|strides| place(i, dims, strides)))).collect();
            assert_eq!(visited, expected, "{dims:?}");
        }
    }

    #[test]
    fn what_lies_close_is_walked_in_order() {
        let mut visited = Vec::new();
        Walk { count: 3, strided: None }.each(|i, at: [usize; 1]| visited.push((i, at)));
        assert_eq!(visited, [(0, [0]), (1, [1]), (2, [2])]);
    }
}
