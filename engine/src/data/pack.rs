//! Packing: which rows, or pieces of rows, lie in one sequence of at most `max_length` tokens. Only lengths are
//! looked at; that no example sees another is the micro-batch's doing ([`super::MicroBatch`]).
//!
//! The bins are those of TRL's `pack_dataset`, bin for bin, save that TRL packs every thousand rows by themselves
//! and this packs all of them.

use std::collections::{BTreeMap, VecDeque};

use fleetune_shared::recipe::TruncationMode;

/// Neighbouring tokens of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its number in the store.
    pub(super) row: u32,
    /// Tokens of the row before it.
    pub(super) start: u32,
    /// Tokens in it.
    pub(super) tokens: u32,
}

impl Piece {
    /// A row as it is.
    pub(super) fn whole(row: u32, tokens: u32) -> Self {
        Self { row, start: 0, tokens }
    }

    /// At most `max_length` of its tokens, at one end.
    pub(super) fn kept(self, max_length: usize, mode: TruncationMode) -> Self {
        let tokens = self.tokens.min(u32::try_from(max_length).unwrap_or(u32::MAX));
        let skipped = if mode == TruncationMode::KeepEnd { self.tokens - tokens } else { 0 };
        Self { start: self.start + skipped, tokens, ..self }
    }

    /// Its first `tokens` tokens, or all of them, and what is left.
    fn cut(self, tokens: u32) -> (Self, Self) {
        let head = self.tokens.min(tokens);
        let rest = Self { start: self.start + head, tokens: self.tokens - head, ..self };
        (Self { tokens: head, ..self }, rest)
    }
}

/// Rows longer than `max_length` in as many pieces as it takes.
pub(super) fn split(rows: &[Piece], max_length: u32) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(rows.len());
    for row in rows {
        let mut rest = *row;
        while rest.tokens > 0 {
            let (head, tail) = rest.cut(max_length);
            pieces.push(head);
            rest = tail;
        }
    }
    pieces
}

/// Best fit decreasing (arXiv 2404.10830): the longest piece first, each into the fullest bin that still has room
/// for it, and among equally full ones into the one that became so first. Pieces keep their order where they are
/// equally long; longer ones than `max_length` are cut.
pub(super) fn best_fit(pieces: Vec<Piece>, max_length: u32) -> Vec<Vec<Piece>> {
    let cut = pieces.into_iter().map(|piece| piece.cut(max_length).0);
    let mut pieces: Vec<Piece> = cut.filter(|piece| piece.tokens > 0).collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.tokens));
    let mut bins: Vec<Vec<Piece>> = Vec::new();
    let mut by_room: BTreeMap<u32, VecDeque<usize>> = BTreeMap::new();
    for piece in pieces {
        let (room, bin) = match by_room.range_mut(piece.tokens..).next() {
            Some((room, waiting)) => {
                let room = *room;
                let bin = waiting.pop_front().unwrap_or_default();
                if waiting.is_empty() {
                    by_room.remove(&room);
                }
                (room, bin)
            }
            None => {
                bins.push(Vec::new());
                (max_length, bins.len() - 1)
            }
        };
        bins[bin].push(piece);
        if room > piece.tokens {
            by_room.entry(room - piece.tokens).or_default().push_back(bin);
        }
    }
    bins
}

/// All rows in their order, cut wherever a bin is full.
pub(super) fn wrap(rows: &[Piece], max_length: u32) -> Vec<Vec<Piece>> {
    let mut bins = vec![Vec::new()];
    let mut room = max_length;
    for row in rows {
        let mut rest = *row;
        while rest.tokens > 0 {
            if room == 0 {
                bins.push(Vec::new());
                room = max_length;
            }
            let (head, tail) = rest.cut(room);
            room -= head.tokens;
            bins.last_mut().expect("there is always one").push(head);
            rest = tail;
        }
    }
    bins.retain(|bin| !bin.is_empty());
    bins
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// What TRL made of rows whose tokens count up from 0 through all of them.
    #[derive(Deserialize)]
    struct Case {
        lengths: Vec<u32>,
        seq_length: u32,
        packed_lens: Vec<u32>,
        first_tokens: Vec<u32>,
        seq_lengths: Option<Vec<Vec<u32>>>,
    }

    fn rows(lengths: &[u32]) -> Vec<Piece> {
        lengths.iter().enumerate().map(|(i, n)| Piece::whole(i as u32, *n)).collect()
    }

    fn packed(strategy: &str, lengths: &[u32], max_length: u32) -> Vec<Vec<Piece>> {
        let rows = rows(lengths);
        match strategy {
            "bfd" => best_fit(rows, max_length),
            "bfd_split" => best_fit(split(&rows, max_length), max_length),
            _ => wrap(&rows, max_length),
        }
    }

    #[test]
    fn bins_are_those_of_trl() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/packing/packing.json");
        let cases: BTreeMap<String, Case> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(cases.len(), 18);
        for (name, case) in cases {
            let (_, strategy) = name.split_once('.').unwrap();
            let bins = packed(strategy, &case.lengths, case.seq_length);
            let lengths: Vec<Vec<u32>> =
                bins.iter().map(|bin| bin.iter().map(|piece| piece.tokens).collect()).collect();
            let sums: Vec<u32> = lengths.iter().map(|bin| bin.iter().sum()).collect();
            assert_eq!(sums, case.packed_lens, "{name}");
            if let Some(expected) = case.seq_lengths {
                assert_eq!(lengths, expected, "{name}");
            }
            let before = |row: u32| case.lengths[..row as usize].iter().sum::<u32>();
            let first: Vec<u32> =
                bins.iter().map(|bin| before(bin[0].row) + bin[0].start).collect();
            assert_eq!(first, case.first_tokens, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_token_is_in_one_bin_and_no_bin_is_too_long(
            lengths in proptest::collection::vec(0u32..50, 0..80),
            max_length in 1u32..40,
            strategy in prop_oneof![Just("bfd_split"), Just("wrapped")],
        ) {
            let bins = packed(strategy, &lengths, max_length);
            let mut seen: Vec<Vec<bool>> = lengths.iter().map(|n| vec![false; *n as usize]).collect();
            for bin in &bins {
                prop_assert!(!bin.is_empty());
                prop_assert!(bin.iter().map(|piece| piece.tokens).sum::<u32>() <= max_length);
                for piece in bin {
                    for at in piece.start..piece.start + piece.tokens {
                        prop_assert!(!std::mem::replace(&mut seen[piece.row as usize][at as usize], true));
                    }
                }
            }
            prop_assert!(seen.iter().flatten().all(|seen| *seen));
        }
    }
}
