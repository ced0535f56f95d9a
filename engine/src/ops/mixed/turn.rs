//! Squares of numbers turned about their diagonal: what lies beside each other comes to lie below each other.

use half::bf16;

use super::super::wide::wide;

/// Words of a square's side; a word is a pair of bf16.
pub(super) const SIDE: usize = 16;

/// Words, row after row.
pub(super) type Square = [[u32; SIDE]; SIDE];

/// Row `i` becomes column `i`.
#[inline]
pub(super) fn turn(square: &mut Square) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "only a machine that has the instructions runs them")]
        // SAFETY: the machine was asked.
        return unsafe { in_registers(square) };
    }
    plain(square);
}

/// The twin of the other.
fn plain(square: &mut Square) {
    for i in 1..SIDE {
        let (above, below) = square.split_at_mut(i);
        for (word, above) in below[0].iter_mut().zip(above) {
            std::mem::swap(word, &mut above[i]);
        }
    }
}

/// A row is a register. Two unpacking passes turn squares of four words within the quarters of four registers, two
/// shuffling passes bring the quarters to their places.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "loads and stores have no safe form")]
fn in_registers(square: &mut Square) {
    use std::arch::x86_64::{
        _mm512_loadu_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    // Counted loops become registers; closures would be functions of their own, without them.
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for i in 0..SIDE {
        // SAFETY: a row has the 64 bytes of a register.
        rows[i] = unsafe { _mm512_loadu_si512(square[i].as_ptr().cast()) };
    }
    let mut fours = [_mm512_setzero_si512(); SIDE];
    for i in (0..SIDE).step_by(4) {
        let low = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        let high = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        let next_low = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]);
        let next_high = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
        fours[i] = _mm512_unpacklo_epi64(low, next_low);
        fours[i + 1] = _mm512_unpackhi_epi64(low, next_low);
        fours[i + 2] = _mm512_unpacklo_epi64(high, next_high);
        fours[i + 3] = _mm512_unpackhi_epi64(high, next_high);
    }
    // Quarters 0 and 2, or 1 and 3, of both.
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    for i in 0..4 {
        let even = _mm512_shuffle_i32x4::<EVEN>(fours[i], fours[i + 4]);
        let odd = _mm512_shuffle_i32x4::<ODD>(fours[i], fours[i + 4]);
        let next_even = _mm512_shuffle_i32x4::<EVEN>(fours[i + 8], fours[i + 12]);
        let next_odd = _mm512_shuffle_i32x4::<ODD>(fours[i + 8], fours[i + 12]);
        rows[i] = _mm512_shuffle_i32x4::<EVEN>(even, next_even);
        rows[i + 4] = _mm512_shuffle_i32x4::<EVEN>(odd, next_odd);
        rows[i + 8] = _mm512_shuffle_i32x4::<ODD>(even, next_even);
        rows[i + 12] = _mm512_shuffle_i32x4::<ODD>(odd, next_odd);
    }
    for i in 0..SIDE {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(square[i].as_mut_ptr().cast(), rows[i]) };
    }
}

wide! {
    /// Two rows woven into words: the numbers of each column beside each other.
    pub(super) fn weave(
        words: &mut [u32; SIDE],
        upper: &[bf16; SIDE],
        lower: &[bf16; SIDE],
    ) {
        for i in 0..SIDE {
            words[i] = u32::from(upper[i].to_bits()) | u32::from(lower[i].to_bits()) << 16;
        }
    }
}

wide! {
    /// Words as the numbers they are made of, as many as there is room for.
    pub(super) fn unweave(numbers: &mut [bf16], words: &[u32; SIDE]) {
        let numbers_of = |word: &u32| [*word, word >> 16].map(|bits| bf16::from_bits(bits as u16));
        // Of a length that is known: two registers, no loop.
        if let Some(numbers) = numbers.first_chunk_mut::<{ 2 * SIDE }>() {
            for (two, word) in numbers.as_chunks_mut().0.iter_mut().zip(words) {
                *two = numbers_of(word);
            }
            return;
        }
        for (two, word) in numbers.chunks_mut(2).zip(words) {
            two.copy_from_slice(&numbers_of(word)[..two.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let square: Square = std::array::from_fn(|i| std::array::from_fn(|j| (i * 100 + j) as u32));
        for turn in [turn, plain] {
            let mut turned = square;
            turn(&mut turned);
            for i in 0..SIDE {
                for j in 0..SIDE {
                    assert_eq!(turned[i][j], square[j][i]);
                }
            }
        }
    }

    #[test]
    fn what_is_woven_is_the_same_unwoven() {
        let rows = [0.0, 50.0].map(|from| -> [bf16; SIDE] {
            std::array::from_fn(|i| bf16::from_f32(from + i as f32))
        });
        let mut words = [0; SIDE];
        weave(&mut words, &rows[0], &rows[1]);
        let mut numbers = [bf16::ZERO; 2 * SIDE];
        unweave(&mut numbers, &words);
        for (i, two) in numbers.as_chunks::<2>().0.iter().enumerate() {
            assert_eq!(two, &[rows[0][i], rows[1][i]]);
        }
    }
}
