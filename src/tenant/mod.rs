//! Tenants as backends know them: login passwords, the sealed context, and what is installed in a
//! database so that PostgreSQL can check it.

mod channels;
mod context;
mod contexts;
mod install;
mod password;

pub use channels::ChannelKey;
pub use context::{Context, Known, SEALED_ANEW, Sealer};
pub use contexts::Contexts;
pub use install::{InstallError, Installation, Installed, SCHEMA_VERSION, uninstall, uninstall_script};
pub use password::login_password;
