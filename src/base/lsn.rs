//! A place in the write-ahead log.

use std::fmt;

/// Bytes since the log began (pg_lsn: PostgreSQL's documentation, 8.20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// As PostgreSQL writes it: two numbers in hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let number = |part: &str| {
            let digits = (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        Some(Self(number(high)? << 32 | number(low)?))
    }

    /// The end of the record before it, where this is the place behind the header of a page that is empty otherwise:
    /// whoever asks where the next record goes hears that, and a replica never says that it has come so far
    /// (XLogBytePosToRecPtr and XLogBytePosToEndRecPtr in xlog.c). `segment`: wal_segment_size in bytes.
    #[must_use]
    pub fn without_page_header(self, segment: u64) -> Self {
        const PAGE: u64 = 8_192;
        // SizeOfXLogLongPHD, where a segment begins, and SizeOfXLogShortPHD.
        let header = if self.0 % segment.max(PAGE) < PAGE { 40 } else { 24 };
        if self.0 % PAGE == header { Self(self.0 - header) } else { self }
    }

    /// How many bytes this is behind another one.
    pub fn behind(self, other: Self) -> u64 {
        other.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(Lsn::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "/", "1", "1/", "/1", "g/0", "+1/0", "1/-1", "123456789/0", "1/2/3"] {
            assert_eq!(Lsn::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_next_records_place_on_an_empty_page_is_the_end_of_the_last_one() {
        let shown = |text| Lsn::parse(text).unwrap().without_page_header(16 << 20).to_string();
        assert_eq!(shown("0/3002018"), "0/3002000");
        assert_eq!(shown("0/3002020"), "0/3002020", "the end of a record that is continued from the page before");
        assert_eq!(shown("0/3000028"), "0/3000000", "the longer header where a segment begins");
        assert_eq!(shown("0/3000018"), "0/3000018", "within that");
        assert_eq!(shown("0/3002028"), "0/3002028");
    }

    #[test]
    fn later_is_greater_and_the_difference_is_in_bytes() {
        let (a, b) = (Lsn::parse("1/FFFFFFF0").unwrap(), Lsn::parse("2/10").unwrap());
        assert!(a < b);
        assert_eq!((a.behind(b), b.behind(a)), (32, 0));
    }
}
