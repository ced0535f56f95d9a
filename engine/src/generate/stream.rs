//! Text as it grows: a token may hold half a character, so a piece is handed out once it is whole.

use crate::Result;
use crate::data::Tokenizer;

/// Turns ids into pieces of text that put together are the text of all of them.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// `ids[context..]` is decoded each time: the last piece again, because some decoders look back, and what follows.
    context: usize,
    /// `ids[..told]` is told.
    told: usize,
}

impl<'a> TextStream<'a> {
    /// A stream at the beginning of a text. Special tokens are left out.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), context: 0, told: 0 }
    }

    /// Takes a token; gives what can be told now, which may be nothing.
    ///
    /// # Errors
    /// A token that cannot be decoded.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        self.piece(false)
    }

    /// What is left once no token follows.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Option<String>> {
        self.piece(true)
    }

    fn piece(&mut self, last: bool) -> Result<Option<String>> {
        let before = self.tokenizer.decode_plain(&self.ids[self.context..self.told])?;
        let now = self.tokenizer.decode_plain(&self.ids[self.context..])?;
        let unfinished = now.ends_with(char::REPLACEMENT_CHARACTER) && !last;
        let Some(piece) = now.strip_prefix(&before).filter(|p| !p.is_empty() && !unfinished) else {
            return Ok(None);
        };
        let piece = piece.to_owned();
        self.context = self.told;
        self.told = self.ids.len();
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn pieces_are_whole_characters_and_add_up() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat/smollm2");
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let text = "naïve café — 你好，世界! 🦀 end";
        let mut ids = tokenizer.encode(text).unwrap();
        ids.insert(3, 2); // a special token is not told
        let mut stream = TextStream::new(&tokenizer);
        let mut told = String::new();
        let mut pieces = 0;
        for id in ids {
            if let Some(piece) = stream.push(id).unwrap() {
                assert!(!piece.contains(char::REPLACEMENT_CHARACTER));
                told += &piece;
                pieces += 1;
            }
        }
        assert_eq!(stream.finish().unwrap(), None);
        assert_eq!(told, text);
        assert!(pieces > 8, "{pieces}");

        let crab = tokenizer.encode("🦀").unwrap();
        let mut cut = TextStream::new(&tokenizer);
        assert_eq!(cut.push(crab[0]).unwrap(), None);
        assert_eq!(cut.finish().unwrap().as_deref(), Some("\u{FFFD}"));
    }
}
