//! A progress bar for work that takes longer than a second.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Shared, lock};
use crate::engine::Progress;

/// Work shorter than this is not worth a bar.
const PATIENCE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(100);

/// Keeps a progress bar alive; dropping it takes the bar away.
#[must_use = "the bar is gone once this is dropped"]
pub struct Watch(Option<(Sender<()>, JoinHandle<()>)>);

impl Watch {
    pub(super) fn none() -> Self {
        Watch(None)
    }

    pub(super) fn start(shared: Arc<Shared>, work: Vec<Progress>) -> Self {
        Self::drawing(shared, move |bar| {
            let (done, total) = sum(&work);
            draw(bar, done, total);
        })
    }

    pub(super) fn line(shared: Arc<Shared>, words: impl Fn() -> String + Send + 'static) -> Self {
        Self::drawing(shared, move |bar| {
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(words());
            bar.tick();
        })
    }

    fn drawing(shared: Arc<Shared>, draw: impl Fn(&ProgressBar) + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel::<()>();
        let drawing = move || {
            let mut wait = PATIENCE;
            while let Err(RecvTimeoutError::Timeout) = receiver.recv_timeout(wait) {
                wait = INTERVAL;
                let mut slot = lock(&shared.bar);
                draw(slot.get_or_insert_with(new_bar));
            }
            if let Some(bar) = lock(&shared.bar).take() {
                bar.finish_and_clear();
            }
        };
        // Without a thread there is no bar, and nothing else is lost.
        Watch(std::thread::Builder::new().name("progress".into()).spawn(drawing).ok().map(|thread| (sender, thread)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.0.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn new_bar() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
}

fn draw(bar: &ProgressBar, done: u64, total: u64) {
    let known = total >= done && total > 0;
    let template = match known {
        true => "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
        false => "{spinner} {decimal_bytes} {decimal_bytes_per_sec}",
    };
    if bar.length().is_some() != known || bar.position() == 0 {
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    }
    match known {
        true => bar.set_length(total),
        false => bar.unset_length(),
    }
    bar.set_position(done);
    bar.tick();
}

/// Bytes done and expected by all; nothing is expected as long as one does not know.
fn sum(work: &[Progress]) -> (u64, u64) {
    let read: Vec<(u64, u64)> = work.iter().map(Progress::read).collect();
    let done = read.iter().map(|(done, _)| done).sum();
    let total = if read.iter().any(|(_, total)| *total == 0) { 0 } else { read.iter().map(|(_, total)| total).sum() };
    (done, total)
}
