//! How long a client may take to log in. What servers take meanwhile is not its own, and has limits elsewhere.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// One login's.
#[derive(Debug)]
pub(super) struct Allowance {
    until: Cell<Instant>,
    stopped: Cell<bool>,
}

impl Allowance {
    pub fn new(limit: Duration) -> Self {
        Self { until: Cell::new(Instant::now() + limit), stopped: Cell::new(false) }
    }

    /// What comes of a login, unless its time is up before.
    pub async fn bound<T>(&self, login: impl Future<Output = T>) -> Option<T> {
        let mut login = pin!(login);
        let mut end = pin!(sleep_until(self.until.get()));
        poll_fn(|cx| {
            if let Poll::Ready(done) = login.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if self.stopped.get() {
                return Poll::Pending;
            }
            if end.deadline() != self.until.get() {
                end.as_mut().reset(self.until.get());
            }
            end.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// Waits for a server, which must have a limit of its own.
    pub async fn stopped<T>(&self, served: impl Future<Output = T>) -> T {
        let mut served = pin!(served);
        // Most often there is nothing to wait for.
        if let Poll::Ready(done) = futures_util::poll!(served.as_mut()) {
            return done;
        }
        let began = Instant::now();
        self.stopped.set(true);
        let done = served.await;
        self.stopped.set(false);
        self.until.set(self.until.get() + began.elapsed());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn time_that_servers_take_is_not_counted() {
        let allowance = Allowance::new(LIMIT);
        let login = async {
            allowance.stopped(tokio::time::sleep(2 * LIMIT)).await;
            allowance.stopped(async {}).await;
            tokio::task::yield_now().await;
            "in"
        };
        assert_eq!(allowance.bound(login).await, Some("in"));
    }

    #[tokio::test]
    async fn a_client_has_no_more_time_than_it_was_given() {
        let (allowance, began) = (Allowance::new(LIMIT), Instant::now());
        let login = async {
            allowance.stopped(tokio::time::sleep(LIMIT / 2)).await;
            std::future::pending::<()>().await;
        };
        assert_eq!(allowance.bound(login).await, None);
        assert!(began.elapsed() >= LIMIT + LIMIT / 2, "{:?}", began.elapsed());
        assert_eq!(Allowance::new(LIMIT).bound(std::future::pending::<()>()).await, None);
    }
}
