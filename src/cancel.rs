//! Stopping in the middle: one flag, set by a signal or by a failure elsewhere, looked at between blocks of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::{Class, Error, Result};

/// A shared "stop now" flag. Clones see the same flag. Cheap enough to check for every file.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicI32>);

impl Cancel {
    /// A flag that nothing has set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody to stop because this signal arrived. The first signal is kept.
    pub fn stop(&self, signal: i32) {
        let _ = self.0.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The signal that asked to stop, if any.
    pub fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal),
        }
    }

    /// Fails with [`Class::Interrupted`] once a stop was asked for.
    pub fn check(&self) -> Result<()> {
        match self.signal() {
            None => Ok(()),
            Some(signal) => Err(Error::new(Class::Interrupted { signal }, "interrupted")),
        }
    }
}
