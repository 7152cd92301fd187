//! Logs: text for people, JSON for machines. No token and no parameter value is ever given to them.

use tracing_subscriber::EnvFilter;

use crate::config::Log;

/// Starts logging to standard error. A second call changes nothing, so that tests may start two proxies.
pub fn init(log: &Log) {
    // Only pgward's own: a library may log the bytes it reads.
    let filter = EnvFilter::new(format!("warn,pgward={},hyper=off,rustls=off,reqwest=off", log.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let _ = if log.json { builder.json().try_init() } else { builder.try_init() };
}
