//! Names that must not be swapped for one another: each is a type of its own.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a name was refused. The text completes the sentence "`value` ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    #[error("has a character outside {0}")]
    Character(&'static str),
}

fn validate(text: &str, max: usize, allowed: fn(u8) -> bool, spoken: &'static str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong(max));
    }
    if !text.bytes().all(allowed) {
        return Err(NameError::Character(spoken));
    }
    Ok(())
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn tenant_byte(byte: u8) -> bool {
    word(byte) || byte == b'.' || byte == b'@' || byte == b':'
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:expr, $spoken:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, NameError> {
                validate(text, $max, $allowed, $spoken)?;
                Ok(Self(Arc::from(text)))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A tenant, as its token and the catalogue name it.
    TenantId, 128, tenant_byte, "A-Z a-z 0-9 _ - . @ :"
);
name!(
    /// A cluster: one primary and its replicas.
    ClusterName, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// One PostgreSQL server of a cluster.
    ServerName, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// A place that law or contract can name, such as `lk`.
    Region, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// One pgward of several.
    NodeName, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// A place that backups of a cluster are kept in.
    RepositoryName, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// Backups that are made alike and kept alike.
    TierName, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// A crossing of borders that is allowed.
    GrantName, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// Tenants whose rows are kept equally long.
    ClassName, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// A table that is partitioned by time.
    PartitionsName, 63, word, "A-Z a-z 0-9 _ -"
);
name!(
    /// What a session may do inside its tenant: `app`, `readonly`, `admin` or a name of the operator's.
    Access, 63, word, "A-Z a-z 0-9 _ -"
);

/// Who is served, counted and limited as one: a tenant, or the clients of a database without tenants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    Tenant(TenantId),
    /// By the name that clients know it by. Any text: it may come from a client.
    Database(Arc<str>),
}

impl Party {
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Tenant(id) => Some(id),
            Self::Database(_) => None,
        }
    }
}

/// For logs, which escape what clients may have put in a name.
impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(id) => id.fmt(f),
            Self::Database(name) => write!(f, "database {name:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_with_a_quote_a_nul_or_too_many_bytes_is_no_tenant() {
        for bad in ["", "a'b", "a\0b", "a b", "émile", &"x".repeat(129)] {
            assert!(TenantId::parse(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(TenantId::parse("acme.example@eu:1").unwrap().as_str(), "acme.example@eu:1");
    }
}
