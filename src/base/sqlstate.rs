//! The SQLSTATE codes that pgward itself sends (PostgreSQL documentation, appendix A).

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(&'static str);

impl SqlState {
    pub const CONNECTION_FAILURE: Self = Self("08006");
    pub const TRANSACTION_RESOLUTION_UNKNOWN: Self = Self("08007");
    pub const PROTOCOL_VIOLATION: Self = Self("08P01");
    pub const FEATURE_NOT_SUPPORTED: Self = Self("0A000");
    pub const INVALID_PARAMETER_VALUE: Self = Self("22023");
    pub const ACTIVE_SQL_TRANSACTION: Self = Self("25001");
    pub const INVALID_STATEMENT_NAME: Self = Self("26000");
    pub const INVALID_AUTHORIZATION: Self = Self("28000");
    pub const INVALID_PASSWORD: Self = Self("28P01");
    pub const INVALID_CATALOG_NAME: Self = Self("3D000");
    pub const INSUFFICIENT_PRIVILEGE: Self = Self("42501");
    pub const SYNTAX_ERROR: Self = Self("42601");
    pub const UNDEFINED_OBJECT: Self = Self("42704");
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self("42P05");
    pub const TOO_MANY_CONNECTIONS: Self = Self("53300");
    pub const CONFIGURATION_LIMIT_EXCEEDED: Self = Self("53400");
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self("54000");
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self("55000");
    pub const OBJECT_IN_USE: Self = Self("55006");
    pub const QUERY_CANCELED: Self = Self("57014");
    pub const ADMIN_SHUTDOWN: Self = Self("57P01");
    pub const CANNOT_CONNECT_NOW: Self = Self("57P03");
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self("25P03");
    pub const INVALID_CURSOR_NAME: Self = Self("34000");
    pub const DUPLICATE_CURSOR: Self = Self("42P03");
    pub const IO_ERROR: Self = Self("58030");
    pub const CONFIG_FILE_ERROR: Self = Self("F0000");
    pub const INTERNAL_ERROR: Self = Self("XX000");

    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// The first two characters: the class, which metrics count by.
    pub fn class(self) -> &'static str {
        self.0.get(..2).unwrap_or("XX")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlState({})", self.0)
    }
}
