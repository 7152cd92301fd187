//! Tenants as backends know them: login passwords, the sealed context, what is installed in a database so that
//! PostgreSQL can check it, and what a tenant gets when it is added and loses when it is removed.

mod channels;
pub mod classification;
mod context;
mod contexts;
mod install;
mod password;
mod provision;
pub mod restore;

pub use channels::ChannelKey;
pub use context::{Context, Known, SEALED_ANEW, Sealer};
pub use contexts::Contexts;
pub use install::{
    InstallError, Installation, Installed, SCHEMA_VERSION, Scope, catalogue_script, install_backup, install_catalogue,
    uninstall, uninstall_script, verifier,
};
pub use password::login_password;
pub use provision::{
    Applied, Database, Provision, ProvisionError, Provisioned, Removal, Seen, Template, TemplateError, TenantTable,
    lock, own_roles, seal,
};
