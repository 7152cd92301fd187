//! Random inputs made of kept ones. The generator is written out, so that a seed gives the same inputs with
//! any version of any crate.

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 where `n` is.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    pub fn choose<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> Option<&'a T> {
        all.get(self.below(all.len())).copied()
    }
}

/// Numbers at which lengths and counts go wrong.
const EDGES: [u32; 12] = [0, 1, 3, 4, 5, 8, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff];

/// An input of at most `longest` bytes out of `kept` ones and of words that mean something to the target.
pub fn input(random: &mut Random, kept: &[Vec<u8>], words: &[&str], longest: usize) -> Vec<u8> {
    let mut bytes = kept.get(random.below(kept.len() + 1)).cloned().unwrap_or_default();
    for _ in 0..=random.below(5) {
        change(random, &mut bytes, kept, words);
    }
    bytes.truncate(longest);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, kept: &[Vec<u8>], words: &[&str]) {
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(16)).min(bytes.len());
    match random.below(9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => {
            let fresh: Vec<u8> = (0..=random.below(6)).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, fresh);
        }
        4 => {
            let again = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, again);
        }
        5 | 6 => {
            let word = random.choose(words).unwrap_or_default();
            let to = if random.below(2) == 0 { at } else { end };
            bytes.splice(at..to, word.bytes());
        }
        7 => {
            let number = EDGES[random.below(EDGES.len())].to_be_bytes();
            let width = if random.below(2) == 0 { 2 } else { 4 };
            for (place, byte) in bytes.iter_mut().skip(at).zip(&number[4 - width..]) {
                *place = *byte;
            }
        }
        _ => {
            let other = kept.get(random.below(kept.len())).map_or(&[][..], Vec::as_slice);
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}
