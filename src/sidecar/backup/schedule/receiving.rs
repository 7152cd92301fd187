//! The log is received as long as it can be, and again when it could not.

use std::time::{Duration, Instant};

use super::{Keeper, LOOK};
use crate::base::causes;
use crate::sidecar::backup::gauges;
use crate::sidecar::backup::receive::{self, Receiver, Receiving};
use crate::sidecar::backup::site::Site;

/// How often it is looked what every repository has by now, so that it need not stay here, and who takes writes.
const TIDY: Duration = Duration::from_secs(60);

/// How it ended.
enum Ended {
    /// The configuration, or the server that takes writes, is another one.
    Otherwise,
    /// Before anything was asked of the primary's log, or after something came.
    Failed(String),
    /// The primary was asked, and nothing came.
    Refused(String),
}

impl Keeper {
    /// Losing the primary's disk loses what is not received, so it is gone on with soon.
    pub(super) async fn keep_receiving(&self) {
        let (mut failures, mut refused, mut told) = (0_u32, 0_u32, String::new());
        while let Some(site) = self.site() {
            let ended = match &site {
                Ok(site) => self.receive(site, refused).await,
                Err(error) => Ended::Failed(causes(error)),
            };
            self.gauge(gauges::RECEIVING, 0.0);
            self.gauge(gauges::BEHIND, f64::NAN);
            let error = match ended {
                Ended::Otherwise => {
                    (failures, refused) = (0, 0);
                    told.clear();
                    continue;
                }
                Ended::Failed(error) => error,
                Ended::Refused(error) => {
                    refused = refused.saturating_add(1);
                    error
                }
            };
            if told != error {
                tracing::error!(cluster = %self.name, error, "the log is not received; it is tried again");
                told = error;
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(Duration::from_secs(1).saturating_mul(failures).min(2 * LOOK)).await;
        }
    }

    async fn receive(&self, site: &Site, refused: u32) -> Ended {
        let mut receiver = match Receiver::begin(site, refused).await {
            Ok(receiver) => receiver,
            Err(error) => return Ended::Failed(causes(&error)),
        };
        let (mut tidied, mut streamed) = (Instant::now(), false);
        loop {
            let receiving = match receiver.look(site).await {
                Ok(receiving) => receiving,
                Err(error) if streamed => return Ended::Failed(causes(&error)),
                Err(error) => return Ended::Refused(causes(&error)),
            };
            if receiving.streaming && !streamed {
                tracing::info!(cluster = %self.name, "the log is received as it is written");
            }
            streamed |= receiving.streaming;
            self.tell_receiving(receiving);
            let now = self.site().and_then(Result::ok).filter(|now| now.receives_as(site));
            let mut led = true;
            if tidied.elapsed() > TIDY {
                tidied = Instant::now();
                self.tidy(site).await;
                led = receiver.is_led(site).await;
            }
            if now.is_none() || !led {
                receiver.end().await;
                return Ended::Otherwise;
            }
        }
    }

    fn tell_receiving(&self, receiving: Receiving) {
        self.gauge(gauges::RECEIVING, if receiving.streaming { 1.0 } else { 0.0 });
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.gauge(gauges::BEHIND, receiving.behind_bytes.map_or(f64::NAN, |bytes| bytes as f64));
    }

    async fn tidy(&self, site: &Site) {
        match receive::clean(site).await {
            #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
            Ok(bytes) => self.gauge(gauges::RECEIVED, bytes as f64),
            Err(error) => {
                tracing::warn!(cluster = %self.name, error = causes(&error), "what was received is not let go");
            }
        }
    }
}
