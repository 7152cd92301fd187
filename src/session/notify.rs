//! Notifications: in a database that tenants share, each has channels of its own.

use std::collections::HashMap;

use super::serve::Session;
use crate::base::Party;
use crate::sql::{Facts, rename_channels};
use crate::wire::backend as answer;

/// Channels whose names a session's notifications are given back by. One that names more loses the ones before.
const MOST: usize = 10_000;

/// The channels that a session has named, by their names on the server.
#[derive(Debug, Default)]
pub(super) struct Channels(HashMap<String, String>);

impl Session {
    /// The text with the tenant's own channels, where it names channels and the database is shared.
    pub(super) fn rename_channels(&mut self, facts: &Facts, text: &[u8]) -> Option<Vec<u8>> {
        let key = self.hearing.key.as_ref().filter(|_| facts.channels)?;
        let Party::Tenant(tenant) = &self.terms.id else { return None };
        let names = &mut self.channels;
        rename_channels(text, |channel| {
            let name = key.name(tenant, channel);
            let names = names.get_or_insert_default();
            if names.0.len() >= MOST {
                names.0.clear();
            }
            names.0.insert(name.clone(), channel.to_owned());
            name
        })
    }

    /// Passes a notification of the session's own backend on, under the name that the client knows. Any other
    /// is not of this tenant.
    pub(super) fn notify(&self, body: &[u8], out: &mut Vec<u8>) {
        let Some((pid, channel, payload)) = answer::notification(body) else { return };
        if self.mail.as_ref().is_some_and(|mail| mail.hears(channel)) {
            return;
        }
        let name = match &self.hearing.key {
            None => Some(channel),
            Some(_) => {
                let channel = std::str::from_utf8(channel).ok();
                channel.and_then(|channel| self.channels.as_ref()?.0.get(channel)).map(String::as_bytes)
            }
        };
        if let Some(name) = name {
            put_notification(pid, name, payload, out);
        }
    }
}

pub(super) fn put_notification(pid: [u8; 4], name: &[u8], payload: &[u8], out: &mut Vec<u8>) {
    let length = 4 + pid.len() + name.len() + payload.len() + 2;
    out.push(b'A');
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in [&pid, name, b"\0", payload, b"\0"] {
        out.extend_from_slice(part);
    }
}
