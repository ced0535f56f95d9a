//! Which rows, or pieces of rows, each sequence of a data set consists of: one row each, or a packed bin of them.

use super::pack::Piece;

/// Runs of pieces, flat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sequences {
    pieces: Vec<Piece>,
    ends: Vec<u32>,
}

impl Sequences {
    /// Every row by itself.
    pub(super) fn single(rows: Vec<Piece>) -> Self {
        Self { ends: (1..=rows.len() as u32).collect(), pieces: rows }
    }

    /// Each two rows together.
    pub(super) fn pairs(rows: Vec<Piece>) -> Self {
        Self { ends: (1..=rows.len() as u32 / 2).map(|pair| 2 * pair).collect(), pieces: rows }
    }

    pub(super) fn packed(bins: Vec<Vec<Piece>>) -> Self {
        let mut sequences = Self::default();
        for bin in bins {
            sequences.pieces.extend(bin);
            sequences.ends.push(sequences.pieces.len() as u32);
        }
        sequences
    }

    /// The sequences of these numbers, in this order and as often as they are named.
    pub(super) fn pick(&self, sequences: &[u32]) -> Self {
        let mut picked = Self::default();
        for i in sequences {
            picked.pieces.extend(self.get(*i as usize));
            picked.ends.push(picked.pieces.len() as u32);
        }
        picked
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, i: usize) -> &[Piece] {
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.pieces[start as usize..self.ends[i] as usize]
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// What tells these sequences from others over the same rows.
    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        for piece in &self.pieces {
            for number in [piece.row, piece.start, piece.tokens] {
                hasher.update(&number.to_le_bytes());
            }
        }
        for end in &self.ends {
            hasher.update(&end.to_le_bytes());
        }
    }
}
