//! Notifications on their way to a session, from whatever core hears them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::Bytes;

/// A session that does not take its notifications may have so many bytes of them waiting.
const MOST: usize = 16 * 1024 * 1024;

/// What a notification takes besides its text, about.
const OVERHEAD: usize = 64;

/// Why nothing more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// More than a session may have waiting.
    Full,
    /// The backend that listened is gone, and with it what it may have had to tell.
    Lost,
}

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// There is something to be looked at. Asked far more often than it is so.
    any: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Bodies of NotificationResponse.
    mail: VecDeque<Bytes>,
    bytes: usize,
    stopped: Option<Stopped>,
    waker: Option<Waker>,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, body: &Bytes) {
        let mut inner = self.lock();
        if inner.stopped.is_some() {
            return;
        }
        inner.bytes += body.len() + OVERHEAD;
        if inner.bytes > MOST {
            self.stop_locked(&mut inner, Stopped::Full);
        } else {
            inner.mail.push_back(body.clone());
            self.wake(&mut inner);
        }
    }

    pub fn stop(&self, why: Stopped) {
        self.stop_locked(&mut self.lock(), why);
    }

    fn stop_locked(&self, inner: &mut Inner, why: Stopped) {
        inner.stopped.get_or_insert(why);
        inner.mail = VecDeque::new();
        self.wake(inner);
    }

    fn wake(&self, inner: &mut Inner) {
        self.any.store(true, Ordering::Release);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    /// The session is about to wait: it will be woken by what comes. `blocked`: it knows that there is
    /// something, which it cannot take now.
    pub fn listen(&self, cx: &Context<'_>, blocked: bool) {
        let mut inner = self.lock();
        if !blocked && self.any.load(Ordering::Acquire) {
            cx.waker().wake_by_ref();
        } else if !inner.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
    }

    pub fn stopped(&self) -> Option<Stopped> {
        if self.any() { self.lock().stopped } else { None }
    }

    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What has come, or why nothing will.
    pub fn take(&self) -> Result<VecDeque<Bytes>, Stopped> {
        let mut inner = self.lock();
        self.any.store(false, Ordering::Release);
        inner.bytes = 0;
        inner.stopped.map_or_else(|| Ok(std::mem::take(&mut inner.mail)), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_that_nobody_takes_has_an_end() {
        let mailbox = Mailbox::default();
        let body = Bytes::from(vec![0; 1024 * 1024 - OVERHEAD]);
        for _ in 0..16 {
            mailbox.put(&body);
        }
        assert_eq!(mailbox.take().map(|mail| mail.len()), Ok(16));
        for _ in 0..17 {
            mailbox.put(&body);
        }
        assert_eq!(mailbox.take(), Err(Stopped::Full));
        mailbox.put(&body);
        assert_eq!(mailbox.take(), Err(Stopped::Full), "for good");
    }
}
