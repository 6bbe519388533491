//! SipHash-2-4 with 128 bits (Aumasson and Bernstein, *SipHash: a fast short-input PRF*, 2012, and the authors' reference
//! code). It names tokens, users and devices for a tenth of what SHA-256 takes.
//!
//! The non-obvious rule: a client that knew the key could find two texts with one hash. So a token is hashed under a
//! [secret of the process](crate::token::TokenSecret), which no client knows. Users and devices are hashed under a
//! [key that everyone knows](crate::mas::user).

/// The key of a hash.
pub type Key = [u64; 2];

const WORD: usize = size_of::<u64>();

/// Returns the hash of `text`.
pub fn hash(key: Key, text: &[u8]) -> [u8; 16] {
    let mut state = State::new(key);
    let (words, rest) = text.as_chunks::<WORD>();
    for word in words {
        state.add(u64::from_le_bytes(*word));
    }
    let shift = |word, byte: &u8| word << 8 | u64::from(*byte);
    state.end(rest.iter().rev().fold(0, shift), text.len())
}

/// The hash of a text that comes in pieces.
#[derive(Clone)]
pub struct SipHasher {
    state: State,
    /// The last bytes, which are no whole word yet.
    word: u64,
    length: usize,
}

impl SipHasher {
    /// No text so far.
    pub fn new(key: Key) -> Self {
        Self {
            state: State::new(key),
            word: 0,
            length: 0,
        }
    }

    /// Adds a piece.
    pub fn push(&mut self, piece: &[u8]) {
        for byte in piece {
            let place = self.length % WORD;
            self.word |= u64::from(*byte) << (8 * place);
            self.length = self.length.wrapping_add(1);
            if place == WORD - 1 {
                self.state.add(core::mem::take(&mut self.word));
            }
        }
    }

    /// Returns the hash of all pieces.
    pub fn finish(self) -> [u8; 16] {
        self.state.end(self.word, self.length)
    }
}

#[derive(Clone)]
struct State([u64; 4]);

impl State {
    fn new([key0, key1]: Key) -> Self {
        Self([
            key0 ^ 0x736f_6d65_7073_6575,
            key1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            key0 ^ 0x6c79_6765_6e65_7261,
            key1 ^ 0x7465_6462_7974_6573,
        ])
    }

    /// A part of each loop over words, so that those keep the state at hand.
    #[inline(always)]
    fn add(&mut self, word: u64) {
        self.mix([0, 0, 0, word]);
        self.rounds(2);
        self.mix([word, 0, 0, 0]);
    }

    /// Adds what is left of a text of this length, and returns the hash.
    fn end(mut self, rest: u64, length: usize) -> [u8; 16] {
        self.add(rest | (length as u64) << 56);
        let low = self.finish([0, 0, 0xee, 0]);
        let high = self.finish([0, 0xdd, 0, 0]);
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }

    fn finish(&mut self, end: [u64; 4]) -> u64 {
        self.mix(end);
        self.rounds(4);
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }

    #[inline]
    fn mix(&mut self, [e, f, g, h]: [u64; 4]) {
        let [a, b, c, d] = self.0;
        self.0 = [a ^ e, b ^ f, c ^ g, d ^ h];
    }

    #[inline(always)]
    fn rounds(&mut self, number: usize) {
        let [mut a, mut b, mut c, mut d] = self.0;
        for _ in 0..number {
            a = a.wrapping_add(b);
            c = c.wrapping_add(d);
            b = b.rotate_left(13) ^ a;
            d = d.rotate_left(16) ^ c;
            a = a.rotate_left(32).wrapping_add(d);
            c = c.wrapping_add(b);
            d = d.rotate_left(21) ^ a;
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.0 = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of `vectors_sip128` in the reference code, whose texts are 0, 1, 2 and so on.
    const KEY: Key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    #[test]
    fn it_is_siphash() {
        let hex = |text: &[u8]| hash(KEY, text).map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(&[]), "a3817f04ba25a8e66df67214c7550293");
        assert_eq!(hex(&[0]), "da87c1d86b99af44347659119b22fc45");
        assert_eq!(hex(&[0, 1]), "8177228da4a45dc7fca38bdef60affe4");
        assert_eq!(hex(&[0, 1, 2]), "9c70b60c5267a94e5f33b6b02985ed51");
    }

    #[test]
    fn every_byte_the_length_and_the_key_count() {
        let mut hashes = std::collections::BTreeSet::new();
        for length in 0..40 {
            let mut text = vec![0; length];
            assert!(hashes.insert(hash(KEY, &text)), "{length}");
            for key in [[KEY[0], 0], [0, KEY[1]], [0, 0]] {
                assert!(hashes.insert(hash(key, &text)), "{length}, {key:?}");
            }
            for at in 0..length {
                text[at] = 1;
                assert!(hashes.insert(hash(KEY, &text)), "{length}, {at}");
                text[at] = 0;
            }
        }
    }

    #[test]
    fn pieces_have_the_hash_of_the_whole() {
        let text: Vec<u8> = (0..70).collect();
        for length in 0..text.len() {
            let text = &text[..length];
            for piece in 1..20 {
                let mut hasher = SipHasher::new(KEY);
                text.chunks(piece).for_each(|piece| hasher.push(piece));
                assert_eq!(hasher.finish(), hash(KEY, text), "{length}, {piece}");
            }
        }
    }
}
