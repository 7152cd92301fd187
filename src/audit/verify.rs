//! Reading a chain: what was changed, taken out, put in or moved, and where. Pure, over lines from anywhere.

use std::collections::BTreeSet;
use std::fmt;

use super::chain::{Hash, Head, Line, Seal};

/// Where a line stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    /// From 1 on.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The line is not what its hash was made of.
    Changed { at: Place, seq: u64 },
    /// No line of an audit log.
    Unreadable { at: Place },
    /// The last line has no end.
    Torn { at: Place },
    /// Lines between these two are gone.
    Removed { at: Place, after: u64, before: u64 },
    /// A good line where it does not belong: moved, repeated or put in.
    OutOfPlace { at: Place, seq: u64, after: u64 },
    /// The line follows another line than the one that is before it.
    Unlinked { at: Place, seq: u64 },
    /// The log does not begin at its beginning.
    BeginRemoved { first: u64 },
    /// The line that was to be there is not, or is another one.
    Unexpected { seq: u64, found: Option<Hash> },
}

impl Finding {
    /// The word for machines.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Unreadable { .. } => "unreadable",
            Self::Torn { .. } => "torn",
            Self::Removed { .. } => "removed",
            Self::OutOfPlace { .. } => "out_of_place",
            Self::Unlinked { .. } => "unlinked",
            Self::BeginRemoved { .. } => "begin_removed",
            Self::Unexpected { .. } => "unexpected",
        }
    }

    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Changed { at, .. }
            | Self::Unreadable { at }
            | Self::Torn { at }
            | Self::Removed { at, .. }
            | Self::OutOfPlace { at, .. }
            | Self::Unlinked { at, .. } => Some(at),
            Self::BeginRemoved { .. } | Self::Unexpected { .. } => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { at, seq } => {
                write!(f, "{at}: line {seq} was changed or put in, or made with a key that was not given")
            }
            Self::Unreadable { at } => write!(f, "{at}: this is no line of an audit log: changed or put in"),
            Self::Torn { at } => write!(f, "{at}: the last line is cut off: by a crash, or it is being written"),
            Self::Removed { at, after, before } if before - after == 2 => {
                write!(f, "{at}: line {} was removed ahead of this one", after + 1)
            }
            Self::Removed { at, after, before } => {
                write!(f, "{at}: lines {} to {} were removed ahead of this one", after + 1, before - 1)
            }
            Self::OutOfPlace { at, seq, after } => {
                write!(f, "{at}: line {seq} stands behind line {after}: moved, repeated or put in")
            }
            Self::Unlinked { at, seq } => {
                write!(f, "{at}: line {seq} does not follow the line before it: one of the two was replaced")
            }
            Self::BeginRemoved { first } => write!(
                f,
                "lines 1 to {} are missing at the beginning, and the log does not say that it removed them",
                first - 1
            ),
            Self::Unexpected { seq, found: None } => write!(f, "line {seq} was expected and is not there"),
            Self::Unexpected { seq, found: Some(found) } => write!(f, "line {seq} is another than expected: {found}"),
        }
    }
}

/// Of a line's JSON object.
pub type Members = serde_json::Map<String, serde_json::Value>;

/// What a chain was found to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Good lines.
    pub lines: u64,
    pub first: Option<u64>,
    pub head: Option<Head>,
    pub findings: Vec<Finding>,
    /// What is as it should be and yet worth knowing.
    pub notes: Vec<String>,
}

/// A line that must be there: its number, and its hash where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    pub seq: u64,
    pub hash: Option<Hash>,
}

impl Anchor {
    /// `SEQ` or `SEQ:HASH`.
    pub fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.split_once(':').map_or((text, None), |(seq, hash)| (seq, Some(hash)));
        let hash = match hash {
            Some(hash) => Some(Hash::parse(hash)?),
            None => None,
        };
        Some(Self { seq: seq.parse().ok()?, hash })
    }
}

/// Takes lines in their order, across files.
#[derive(Debug)]
pub struct Examiner {
    seals: Vec<Seal>,
    anchors: Vec<Anchor>,
    met: Vec<bool>,
    verdict: Verdict,
    last: Option<Head>,
    /// What the first line follows.
    begin: Option<Head>,
    /// Lines that are not good, since the last that was.
    bad: u64,
    /// The one bad line ahead of this one may be what a crash left: its hash and length, and its finding.
    torn: Option<(String, u64, usize)>,
    strays: BTreeSet<u64>,
    removed_through: u64,
}

impl Examiner {
    /// A line is good if any of the seals made it.
    pub fn new(seals: Vec<Seal>, anchors: Vec<Anchor>) -> Self {
        let met = vec![false; anchors.len()];
        Self {
            seals,
            anchors,
            met,
            verdict: Verdict::default(),
            last: None,
            begin: None,
            bad: 0,
            torn: None,
            strays: BTreeSet::new(),
            removed_through: 0,
        }
    }

    /// Takes a line without its end, and gives its members if it is good and stands where it belongs. `ended`: it had one.
    pub fn take(&mut self, at: Place, text: &[u8], ended: bool) -> Option<Members> {
        let read = Line::read(text);
        let line = read.filter(|line| ended && self.seals.iter().any(|seal| line.is_sealed_by(seal)));
        let Some(line) = line else {
            let finding = match read {
                _ if !ended => Finding::Torn { at },
                Some(line) => Finding::Changed { at, seq: line.seq },
                None => Finding::Unreadable { at },
            };
            self.bad += 1;
            let rest = (Seal::Plain.hash(text).to_string(), text.len() as u64, self.verdict.findings.len());
            self.torn = (self.bad == 1).then_some(rest);
            self.verdict.findings.push(finding);
            return None;
        };
        self.meet(line.head());
        self.verdict.lines += 1;
        let members = line.members();
        let number = |name: &str| members.get(name).and_then(serde_json::Value::as_u64);
        if let Some((hash, length, finding)) = self.torn.take()
            && number("torn_bytes") == Some(length)
            && members.get("torn_sha256").and_then(serde_json::Value::as_str) == Some(&hash)
        {
            let place = self.verdict.findings.remove(finding).place().map(ToString::to_string).unwrap_or_default();
            self.verdict.notes.push(format!("{place}: a crash cut this line off; line {} tells of it", line.seq));
            self.bad = 0;
        }
        self.removed_through = self.removed_through.max(number("removed_through").unwrap_or(0));
        self.link(at, &line).then_some(members)
    }

    /// Compares a good line with the good one before it. `false`: it does not belong there.
    fn link(&mut self, at: Place, line: &Line<'_>) -> bool {
        let bad = std::mem::take(&mut self.bad);
        let Some(last) = self.last else {
            self.begin = Some(Head { seq: line.seq.saturating_sub(bad).saturating_sub(1), hash: line.prev });
            self.verdict.first = Some(line.seq);
            self.last = Some(line.head());
            return true;
        };
        if line.seq <= last.seq {
            self.strays.insert(line.seq);
            self.verdict.findings.push(Finding::OutOfPlace { at, seq: line.seq, after: last.seq });
            return false;
        }
        let missing = line.seq - last.seq - 1;
        if missing > bad {
            self.verdict.findings.push(Finding::Removed { at, after: last.seq, before: line.seq });
        } else if missing == 0 && line.prev != last.hash {
            self.verdict.findings.push(Finding::Unlinked { at, seq: line.seq });
        }
        self.last = Some(line.head());
        true
    }

    fn meet(&mut self, head: Head) {
        for (anchor, met) in self.anchors.iter().zip(&mut self.met) {
            *met |= anchor.seq == head.seq && anchor.hash.is_none_or(|hash| hash == head.hash);
        }
    }

    /// `whole`: the log is to be here from its first line on.
    pub fn finish(mut self, whole: bool) -> Verdict {
        if let Some(begin) = self.begin {
            self.meet(begin);
            let known = self.anchors.iter().any(|anchor| anchor.seq == begin.seq && anchor.hash == Some(begin.hash));
            if begin.seq > self.removed_through && !known && whole {
                self.verdict.findings.push(Finding::BeginRemoved { first: begin.seq + 1 });
            } else if begin.seq > 0 {
                self.verdict.notes.push(format!("the log begins with line {}, which follows {begin}", begin.seq + 1));
            } else if begin.hash != Hash::NONE {
                // Before the first line there is none.
                self.verdict.findings.push(Finding::BeginRemoved { first: 1 });
            }
        }
        for (anchor, met) in self.anchors.iter().zip(&self.met) {
            if !met {
                let found = self.last.filter(|last| last.seq == anchor.seq).map(|last| last.hash);
                self.verdict.findings.push(Finding::Unexpected { seq: anchor.seq, found });
            }
        }
        // A line that was only moved is not missing as well.
        let strays = &self.strays;
        self.verdict.findings.retain(|finding| match finding {
            Finding::Removed { after, before, .. } => {
                strays.range(after + 1..*before).count() as u64 != before - after - 1
            }
            _ => true,
        });
        self.verdict.head = self.last;
        self.verdict
    }
}

#[cfg(test)]
mod tests;
