//! The console: psql to the database `pgward`.

use super::control::Control;
use crate::session::Admin;

pub async fn serve(_admin: Admin, _control: Control) {}
