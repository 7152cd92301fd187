//! Bytes of the fuzzer's choosing, taken piece by piece. Where they end, zeros follow.

pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.rest.split_off_first().copied().unwrap_or(0)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Up to 255 bytes, whose number comes first.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.rest.len());
        self.rest.split_off(..length).unwrap_or_default()
    }

    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// What differs from the honest bytes: some places are given other bytes, or all of it is replaced. `None`:
/// nothing differs.
pub fn bent(input: &mut Input<'_>, honest: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = honest.to_vec();
    match input.below(6) {
        0 | 1 => {}
        2 => bytes = input.piece().to_vec(),
        3 => {
            let at = input.below(256).min(bytes.len());
            bytes.truncate(at);
        }
        4 => {
            let at = input.below(256).min(bytes.len());
            bytes.splice(at..at, input.piece().iter().copied());
        }
        _ => {
            for _ in 0..=input.below(3) {
                let (at, byte) = (input.below(256), input.byte());
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
        }
    }
    (bytes != honest).then_some(bytes)
}
