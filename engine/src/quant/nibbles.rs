//! Codes of four bits as numbers, many at a time.

use half::bf16;

use crate::ops::number::Number;
use crate::ops::wide::wide;

/// As [`one_by_one`], to bf16.
pub(super) fn to_bf16(book: &[f32; 16], scale: f32, codes: &[u8], out: &mut [bf16]) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && scale.is_finite() {
        let whole = (out.len() / 32).min(codes.len() / 16);
        #[expect(unsafe_code, reason = "only a machine that has the instructions runs them")]
        // SAFETY: the machine was asked.
        unsafe {
            by_registers(book, scale, &codes[..16 * whole], &mut out[..32 * whole]);
        }
        done = whole;
    }
    one_by_one(book, scale, &codes[16 * done..], &mut out[32 * done..]);
}

wide! {
    /// What `codes` stand for in `book`, two a byte with the upper half first, times `scale`.
    pub(super) fn one_by_one[N: Number](book: &[f32; 16], scale: f32, codes: &[u8], out: &mut [N]) {
        let number = |code: u8| N::narrow(book[usize::from(code)] * scale);
        let (pairs, odd) = out.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(codes) {
            *pair = [number(byte >> 4), number(byte & 15)];
        }
        if let [last] = odd {
            *last = number(codes[pairs.len()] >> 4);
        }
    }
}

/// Sixteen bytes at a time: the book is a register, both halves of each byte choose from it, and the two numbers of a
/// byte are the two halves of a word. `scale` is finite, so that no product is without a number.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "loads and stores have no safe form")]
fn by_registers(book: &[f32; 16], scale: f32, codes: &[u8], out: &mut [bf16]) {
    use std::arch::x86_64::{
        __m512i, _mm_loadu_si128, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512,
        _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_mul_ps, _mm512_or_si512,
        _mm512_permutexvar_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32,
        _mm512_srli_epi32, _mm512_storeu_si512,
    };

    // SAFETY: sixteen numbers.
    let book = unsafe { _mm512_loadu_ps(book.as_ptr()) };
    let scale = _mm512_set1_ps(scale);
    // The bits of the nearest bf16 in the upper half of each word.
    #[target_feature(enable = "avx512f")]
    fn rounded(bits: __m512i) -> __m512i {
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd)
    }
    for (codes, out) in codes.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        // SAFETY: sixteen bytes.
        let bytes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        let bytes = _mm512_cvtepu8_epi32(bytes);
        let first =
            _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), book), scale);
        // Only the lower four bits choose.
        let second = _mm512_mul_ps(_mm512_permutexvar_ps(bytes, book), scale);
        let first = _mm512_srli_epi32::<16>(rounded(_mm512_castps_si512(first)));
        let second = rounded(_mm512_castps_si512(second));
        let second = _mm512_slli_epi32::<16>(_mm512_srli_epi32::<16>(second));
        // SAFETY: 32 numbers of two bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_or_si512(first, second)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{fp4, nf4};

    #[test]
    fn numbers_are_the_book_s_times_the_scale() {
        let codes: Vec<u8> = (0..=255).chain((0..77).map(|i| i * 3)).collect();
        for book in [nf4().values(), fp4().values()] {
            for scale in [0.0, 1.0, -0.371, 3.3e38, f32::INFINITY, f32::NAN, 1e-40] {
                for count in [2 * codes.len(), 2 * codes.len() - 1, 33, 1, 0] {
                    let code = |i: usize| usize::from(codes[i / 2] >> (4 - i % 2 * 4) & 15);
                    let mut exact = vec![0.0; count];
                    one_by_one(book, scale, &codes, &mut exact);
                    let mut rounded = vec![bf16::ONE; count];
                    to_bf16(book, scale, &codes, &mut rounded);
                    for i in 0..count {
                        let expected = book[code(i)] * scale;
                        assert!(exact[i].to_bits() == expected.to_bits() || expected.is_nan());
                        let nearest = bf16::narrow(expected);
                        assert!(rounded[i].to_bits() == nearest.to_bits() || expected.is_nan());
                        assert_eq!(
                            (exact[i].is_nan(), rounded[i].is_nan()),
                            (expected.is_nan(), expected.is_nan())
                        );
                    }
                }
            }
        }
    }
}
