//! Backups of whole clusters by pgBackRest, proven by restoring them.
