use proptest::prelude::*;

use super::*;
use crate::base::Secret;

fn key() -> Seal {
    Seal::new(Some(Secret::new("a key")))
}

/// A log of so many lines, each without its end.
fn log(seal: &Seal, lines: usize) -> (Vec<Vec<u8>>, Head) {
    let (mut head, mut out) = (Head::NONE, Vec::new());
    for n in 0..lines {
        head.append(seal, "2026-01-01T00:00:00.000Z", &format!("\"event\":\"login\",\"user\":\"u{n}\""), &mut out);
    }
    (out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect(), head)
}

fn verdict(seal: &Seal, anchors: Vec<Anchor>, lines: &[Vec<u8>]) -> Verdict {
    let mut examiner = Examiner::new(vec![seal.clone()], anchors);
    for (n, line) in lines.iter().enumerate() {
        examiner.take(Place { file: "f".into(), line: n as u64 + 1 }, line, true);
    }
    examiner.finish(true)
}

fn said(seal: &Seal, lines: &[Vec<u8>]) -> Vec<String> {
    verdict(seal, Vec::new(), lines).findings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_log_as_it_was_written_is_good() {
    for seal in [Seal::Plain, key()] {
        let (lines, head) = log(&seal, 20);
        let anchors = vec![Anchor::parse(&head.to_string()).unwrap(), Anchor::parse("7").unwrap()];
        let found = verdict(&seal, anchors, &lines);
        assert_eq!((found.findings.as_slice(), found.lines, found.head), (&[][..], 20, Some(head)));
    }
}

#[test]
fn what_was_done_to_a_log_is_named_with_its_place() {
    let (lines, _) = log(&Seal::Plain, 9);
    let done = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        said(&Seal::Plain, &lines)
    };
    let changed = "f:3: line 3 was changed or put in, or made with a key that was not given";
    assert_eq!(done(&|lines| lines[2][60] ^= 1), [changed]);
    assert_eq!(done(&|lines| drop(lines.remove(3))), ["f:4: line 4 was removed ahead of this one"]);
    assert_eq!(done(&|lines| drop(lines.drain(3..6))), ["f:4: lines 4 to 6 were removed ahead of this one"]);
    assert_eq!(done(&|lines| lines.swap(3, 4)), ["f:5: line 4 stands behind line 5: moved, repeated or put in"]);
    let repeated = ["f:6: line 2 stands behind line 5: moved, repeated or put in"];
    assert_eq!(done(&|lines| lines.insert(5, lines[1].clone())), repeated);
    let strange = ["f:6: this is no line of an audit log: changed or put in"];
    assert_eq!(done(&|lines| lines.insert(5, b"{\"seq\":6}".to_vec())), strange);
    let begin = ["lines 1 to 2 are missing at the beginning, and the log does not say that it removed them"];
    assert_eq!(done(&|lines| drop(lines.drain(..2))), begin);
}

/// Without a key anybody can redo hashes, and still not those of the lines behind.
#[test]
fn a_line_that_was_made_anew_does_not_fit_its_neighbours() {
    let (mut lines, _) = log(&Seal::Plain, 9);
    let mut head = Line::read(&lines[3]).unwrap().head();
    let mut forged = Vec::new();
    head.append(&Seal::Plain, "2026-01-01T00:00:00.000Z", "\"event\":\"login\",\"user\":\"nobody\"", &mut forged);
    forged.pop();
    lines[4] = forged.clone();
    assert_eq!(
        said(&Seal::Plain, &lines),
        ["f:6: line 6 does not follow the line before it: one of the two was replaced"]
    );
    let (mut lines, _) = log(&key(), 9);
    lines[4] = forged;
    assert_eq!(said(&key(), &lines), ["f:5: line 5 was changed or put in, or made with a key that was not given"]);
}

#[test]
fn the_end_needs_an_anchor() {
    let (mut lines, head) = log(&Seal::Plain, 9);
    let anchor = Anchor::parse(&head.to_string()).unwrap();
    lines.truncate(7);
    assert_eq!(verdict(&Seal::Plain, Vec::new(), &lines).findings, []);
    let found = verdict(&Seal::Plain, vec![anchor], &lines).findings;
    assert_eq!(found, [Finding::Unexpected { seq: 9, found: None }]);
}

#[test]
fn a_line_that_a_crash_cut_is_a_note_once_the_log_tells_of_it() {
    let (mut lines, mut head) = log(&key(), 3);
    let torn = lines[2][..40].to_vec();
    let tells = |torn: &[u8]| {
        format!("\"event\":\"start\",\"torn_bytes\":{},\"torn_sha256\":\"{}\"", torn.len(), Seal::Plain.hash(torn))
    };
    let mut next = Vec::new();
    head.append(&key(), "2026-01-01T00:00:00.000Z", &tells(&torn), &mut next);
    next.pop();
    lines.extend([torn.clone(), next]);
    let found = verdict(&key(), Vec::new(), &lines);
    assert_eq!((found.findings.len(), found.notes.len()), (0, 1), "{found:?}");
    // Another text in its place is found.
    lines[3][5] ^= 1;
    assert_eq!(said(&key(), &lines), ["f:4: this is no line of an audit log: changed or put in"]);
    let mut examiner = Examiner::new(vec![key()], Vec::new());
    examiner.take(Place { file: "f".into(), line: 1 }, &torn, false);
    assert!(matches!(examiner.finish(true).findings.as_slice(), [Finding::Torn { .. }]));
}

/// One thing that can be done to lines.
#[derive(Debug, Clone)]
enum Mutation {
    Flip { line: usize, at: usize, bit: u8 },
    Cut { line: usize, at: usize },
    Add { line: usize, at: usize, byte: u8 },
    Remove(usize),
    Swap(usize, usize),
    Copy { from: usize, to: usize },
    Join(usize),
    Truncate(usize),
    Foreign { at: usize, from: usize },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let n = || any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    prop_oneof![
        (n(), n(), 0..8u8).prop_map(|(line, at, bit)| Mutation::Flip { line, at, bit }),
        (n(), n()).prop_map(|(line, at)| Mutation::Cut { line, at }),
        (n(), n(), any::<u8>()).prop_map(|(line, at, byte)| Mutation::Add { line, at, byte }),
        n().prop_map(Mutation::Remove),
        (n(), n()).prop_map(|(a, b)| Mutation::Swap(a, b)),
        (n(), n()).prop_map(|(from, to)| Mutation::Copy { from, to }),
        n().prop_map(Mutation::Join),
        n().prop_map(Mutation::Truncate),
        (n(), n()).prop_map(|(at, from)| Mutation::Foreign { at, from }),
    ]
}

fn mutate(lines: &mut Vec<Vec<u8>>, mutation: &Mutation) {
    let count = lines.len();
    match *mutation {
        Mutation::Flip { line, at, bit } => {
            let line = &mut lines[line % count];
            let at = at % line.len();
            line[at] ^= 1 << bit;
        }
        Mutation::Cut { line, at } => {
            let line = &mut lines[line % count];
            line.truncate(at % line.len());
        }
        Mutation::Add { line, at, byte } => {
            let line = &mut lines[line % count];
            line.insert(at % (line.len() + 1), byte);
        }
        Mutation::Remove(at) => drop(lines.remove(at % count)),
        Mutation::Swap(a, b) => lines.swap(a % count, b % count),
        Mutation::Copy { from, to } => lines.insert(to % (count + 1), lines[from % count].clone()),
        Mutation::Join(at) => {
            let next = lines.remove((at + 1) % count);
            lines[at % (count - 1)].extend(next);
        }
        Mutation::Truncate(at) => lines.truncate(at % count),
        Mutation::Foreign { at, from } => {
            // A genuine line of another log with the same key.
            let (mut head, mut out) = (Head::NONE, Vec::new());
            for _ in 0..=from % count {
                out.clear();
                head.append(&key(), "2026-02-02T00:00:00.000Z", "\"event\":\"login\"", &mut out);
            }
            out.pop();
            lines[at % count] = out;
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_done_to_lines_is_found(mutations in prop::collection::vec(mutation(), 1..4), lines in 2..12usize, keyed: bool) {
        let seal = if keyed { key() } else { Seal::Plain };
        let (original, head) = log(&seal, lines);
        let mut changed = original.clone();
        for mutation in &mutations {
            if changed.len() > 1 {
                mutate(&mut changed, mutation);
            }
        }
        let anchor = Anchor::parse(&head.to_string()).unwrap();
        let found = verdict(&seal, vec![anchor], &changed).findings;
        prop_assert_eq!(found.is_empty(), changed == original, "{:?}: {:?}", mutations, found);
    }

    #[test]
    fn no_bytes_are_too_strange(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6)) {
        let found = verdict(&Seal::Plain, Vec::new(), &lines);
        prop_assert_eq!(found.findings.len(), lines.len());
    }
}
