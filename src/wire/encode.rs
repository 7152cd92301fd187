//! Messages that pgward itself sends to clients, by pgwire's message types.

use bytes::{Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::ParameterDescription;
use pgwire::messages::response::{CommandComplete, ErrorResponse, NoticeResponse};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey};

use crate::base::{Report, Secret};

/// ReadyForQuery outside a transaction.
pub const READY: &[u8] = b"Z\0\0\0\x05I";
pub const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
pub const BIND_COMPLETE: &[u8] = b"2\0\0\0\x04";
pub const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";
pub const NO_DATA: &[u8] = b"n\0\0\0\x04";
pub const PORTAL_SUSPENDED: &[u8] = b"s\0\0\0\x04";
/// The answer to a text without a statement, in CommandComplete's place.
pub const EMPTY: &[u8] = b"I\0\0\0\x04";

/// Appends a message. pgwire fails only on messages past its length limits; those that pgward makes are
/// far below, and one that is not is left out rather than sent in half.
pub(super) fn put(out: &mut BytesMut, message: &impl Message) {
    let before = out.len();
    if message.encode(out).is_err() {
        out.truncate(before);
    }
}

pub fn report(out: &mut BytesMut, report: &Report) {
    put(out, &ErrorResponse::new(fields(report.severity.as_str(), report)));
}

pub fn notice(out: &mut BytesMut, report: &Report) {
    put(out, &NoticeResponse::new(fields("NOTICE", report)));
}

/// NUL would end a field early, so it is shown as a blank.
fn fields(severity: &str, report: &Report) -> Vec<(u8, String)> {
    let plain = |text: &str| text.replace('\0', " ");
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', report.sqlstate.as_str().to_owned()),
        (b'M', plain(&report.message)),
    ];
    fields.extend(report.detail.iter().map(|text| (b'D', plain(text))));
    fields.extend(report.hint.iter().map(|text| (b'H', plain(text))));
    fields.extend(report.routine.iter().map(|routine| (b'R', routine.as_str().to_owned())));
    fields
}

pub fn ask_password(out: &mut BytesMut) {
    put(out, &Authentication::CleartextPassword);
}

/// Names the SASL mechanisms to choose from.
pub fn ask_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    put(out, &Authentication::SASL(mechanisms.iter().map(|name| (*name).to_owned()).collect()));
}

pub fn sasl_continue(out: &mut BytesMut, data: &[u8]) {
    put(out, &Authentication::SASLContinue(Bytes::copy_from_slice(data)));
}

pub fn sasl_final(out: &mut BytesMut, data: &[u8]) {
    put(out, &Authentication::SASLFinal(Bytes::copy_from_slice(data)));
}

pub fn authenticated(out: &mut BytesMut) {
    put(out, &Authentication::Ok);
}

pub fn parameter(out: &mut BytesMut, name: &str, value: &str) {
    put(out, &ParameterStatus::new(name.to_owned(), value.to_owned()));
}

/// The number a client sends back to cancel, and its key (4 bytes in protocol 3.0, more in 3.2).
pub fn cancel_key(out: &mut BytesMut, pid: u32, secret: &Secret) {
    let key = SecretKey::Bytes(Bytes::copy_from_slice(secret.expose()));
    put(out, &BackendKeyData::new(pid.cast_signed(), key));
}

/// Says that a lower minor version is spoken than was asked for, and which options are not known.
pub fn negotiate(out: &mut BytesMut, minor: u16, unknown_options: &[String]) {
    put(out, &NegotiateProtocolVersion::new(196_608 + i32::from(minor), unknown_options.to_vec()));
}

/// The types of a statement's parameters.
pub fn parameters(out: &mut BytesMut, types: &[u32]) {
    put(out, &ParameterDescription::new(types.to_vec()));
}

pub fn complete(out: &mut BytesMut, tag: &str) {
    put(out, &CommandComplete::new(tag.to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SqlState;
    use crate::wire::backend;

    #[test]
    fn a_report_becomes_an_error_response() {
        let mut out = BytesMut::new();
        report(&mut out, &Report::fatal(SqlState::INVALID_AUTHORIZATION, "a\0b").hint("do this"));
        assert_eq!(out[0], b'E');
        assert_eq!(backend::sqlstate(&out[5..]), Some(*b"28000"));
        assert_eq!(backend::field(&out[5..], b'M'), Some(&b"a b"[..]));
        assert_eq!(backend::field(&out[5..], b'H'), Some(&b"do this"[..]));
    }

    #[test]
    fn a_long_cancel_key_is_sent_whole() {
        let mut out = BytesMut::new();
        cancel_key(&mut out, 5, &Secret::new([7; 32]));
        assert_eq!(out.len(), 5 + 4 + 32);
    }
}
