//! The audit log: where it is, and what happens when it cannot be written.

use super::reader::{Reader, Section};
use super::sections::long_enough;
use super::settings::*;
use crate::base::Secret;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(super) fn audit(reader: &mut Reader, mut section: Section) -> Option<Audit> {
    let file: Option<String> = section.required(reader, "file", "\"audit/pgward.jsonl\"");
    let key: Option<Secret> = section.optional(reader, "key");
    if let Some(key) = &key {
        long_enough(reader, &section.at("key"), key);
    }
    let rotate_size = section.size(reader, "rotate_size", 64 * MIB, 4 * KIB..=64 * GIB);
    let keep = section.number(reader, "keep", 0, 0..=100_000);
    let choices = [("refuse", OnFailure::Refuse), ("drop", OnFailure::Drop)];
    let on_failure = section.choice(reader, "on_failure", &choices).unwrap_or_default();
    let buffer = section.number(reader, "buffer", 8_192, 16..=1_000_000);
    section.finish(reader);
    Some(Audit { file: reader.resolve(&file?), key, rotate_size, keep, on_failure, buffer })
}

/// Whether the statements of a tenant, or of a database without tenants, are audited.
pub(super) fn statements(reader: &mut Reader, section: &mut Section) -> bool {
    section.choice(reader, "audit", &[("none", false), ("statements", true)]).unwrap_or(false)
}
