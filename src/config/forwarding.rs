//! `[forwarding]`: from a pgward where a tenant's data may not be to one where it may.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Problem;
use super::reader::{Reader, Section};
use crate::base::{NodeName, TenantId};

/// What clients of a tenant get who come to a node that may not serve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forward {
    /// A refusal that names the node to go to.
    Off,
    /// Their connection forwarded, if their own TLS goes through to that node: this one sees nothing of it.
    DirectTls,
    /// Their connection forwarded. Unless its TLS goes through, this node sees what passes.
    Any,
}

impl Forward {
    const ALL: [(&str, Self); 3] = [("off", Self::Off), ("direct-tls", Self::DirectTls), ("any", Self::Any)];
}

/// How nodes reach one another. Each shows its certificate, made out to its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Where other nodes come in. `None`: none do.
    pub listen: Option<SocketAddr>,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// PEM file of the authority that signed the nodes' certificates.
    pub ca: PathBuf,
    pub connect_timeout: Duration,
    /// What tenants have that say nothing.
    pub default: Forward,
    pub server_name: Option<ServerNames>,
}

/// The host names that tenants have of their own, such as `*.pg.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNames {
    /// What follows the tenant's name, with its dot.
    suffix: String,
}

impl ServerNames {
    fn parse(text: &str) -> Option<Self> {
        let suffix = text.strip_prefix('*')?;
        let labels = suffix.strip_prefix('.')?;
        let sound = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        labels.split('.').all(sound).then(|| Self { suffix: suffix.to_ascii_lowercase() })
    }

    /// The tenant that a host name is of. Names of hosts do not tell capitals from small letters, and reach us in small
    /// ones: a tenant with others in its name has no host name.
    pub fn tenant(&self, host: &str) -> Option<TenantId> {
        let host = host.to_ascii_lowercase();
        let label = host.strip_suffix(&self.suffix).filter(|label| !label.contains('.'))?;
        TenantId::parse(label).ok()
    }
}

pub(super) fn forwarding(reader: &mut Reader, section: Option<Section>, own: Option<&NodeName>) -> Option<Forwarding> {
    let mut section = section?;
    if own.is_none() {
        reader.problem(
            Problem::new("forwarding", "needs to know which of the nodes this is").example("node = \"colombo\""),
        );
    }
    let at = section.at("listen");
    let listen = section.optional::<String>(reader, "listen");
    let listen = listen.and_then(|text| super::sections::address(reader, &at, &text));
    let mut file = |reader: &mut Reader, key, example| {
        let name: Option<String> = section.required(reader, key, example);
        name.map(|name| reader.resolve(&name))
    };
    let certificate = file(reader, "certificate", "\"node.crt\"");
    let key = file(reader, "key", "\"node.key\"");
    let ca = file(reader, "ca", "\"nodes.crt\"");
    let longest = Duration::from_secs(60);
    let connect_timeout =
        section.duration(reader, "connect_timeout", Duration::from_secs(5), Duration::from_millis(10)..=longest);
    let default = section.choice(reader, "tenants", &Forward::ALL).unwrap_or(Forward::Off);
    let at = section.at("server_name");
    let text = section.optional::<String>(reader, "server_name");
    let server_name = text.as_deref().and_then(ServerNames::parse);
    if let (Some(text), None) = (&text, &server_name) {
        let what = "must be host names with * in the tenant's place";
        reader.problem(Problem::new(at, what).value(text).example("\"*.pg.example.com\""));
    }
    section.finish(reader);
    Some(Forwarding { listen, certificate: certificate?, key: key?, ca: ca?, connect_timeout, default, server_name })
}

/// A tenant's own rule, or what all have.
pub(super) fn forward(reader: &mut Reader, section: &mut Section, default: Forward) -> Forward {
    section.choice(reader, "forward", &Forward::ALL).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_of_one_label_before_the_rest_is_a_tenants() {
        let names = ServerNames::parse("*.PG.example.com").unwrap();
        let tenant = |host| names.tenant(host).map(|tenant| tenant.to_string());
        assert_eq!(tenant("acme.pg.example.com"), Some("acme".to_owned()));
        assert_eq!(tenant("Acme.pg.Example.com"), Some("acme".to_owned()));
        for other in ["pg.example.com", ".pg.example.com", "a.b.pg.example.com", "acme.pg.example.com.evil.org", "acme"]
        {
            assert_eq!(tenant(other), None, "{other}");
        }
        for bad in ["pg.example.com", "*pg.example.com", "*.", "*..com", "*.a b", "a.*.com"] {
            assert_eq!(ServerNames::parse(bad), None, "{bad}");
        }
    }
}
