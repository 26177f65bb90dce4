//! The lines that tell the operator of failed requests.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{Method, Uri};

use crate::{server::note, upstream::causes};

/// More lines than this are not written in one [`PERIOD`]: an outage of the origin fails every request.
const MAX_LINES: u32 = 10;

const PERIOD: Duration = Duration::from_secs(1);

/// Writes one line for each failed request, up to [`MAX_LINES`] in a [`PERIOD`], and then how many were left out.
#[derive(Debug)]
pub(crate) struct FailureLog(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Default for FailureLog {
    fn default() -> Self {
        Self(Mutex::new(Lines {
            since: Instant::now(),
            written: 0,
            left_out: 0,
        }))
    }
}

impl FailureLog {
    /// Writes the line of one failed request: its method, its target, the status that its client gets, and the error with its cause.
    pub(crate) fn failed(
        &self,
        method: &Method,
        target: &Uri,
        status: u16,
        error: &(dyn Error + 'static),
    ) {
        let (may_write, left_out) = self.count(Instant::now());
        if left_out > 0 {
            note(format_args!(
                "{left_out} more failed requests were not logged"
            ));
        }
        if may_write {
            let reasons: Vec<_> = causes(error).map(ToString::to_string).collect();
            let reasons = reasons.join(": ");
            note(format_args!("{method} {target}: {status}: {reasons}"));
        }
    }

    /// Returns whether a line may be written now, and how many were left out before it that nobody was told of.
    fn count(&self, now: Instant) -> (bool, u64) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = 0;
        if now.saturating_duration_since(lines.since) >= PERIOD {
            left_out = lines.left_out;
            *lines = Lines {
                since: now,
                written: 0,
                left_out: 0,
            };
        }
        let may_write = lines.written < MAX_LINES;
        if may_write {
            lines.written += 1;
        } else {
            lines.left_out += 1;
        }
        (may_write, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_are_written_in_a_second_and_the_rest_is_counted() {
        let log = FailureLog::default();
        let now = Instant::now();
        for _ in 0..MAX_LINES {
            assert_eq!(log.count(now), (true, 0));
        }
        for _ in 0..5 {
            assert_eq!(log.count(now), (false, 0));
        }
        assert_eq!(log.count(now + PERIOD), (true, 5));
        assert_eq!(log.count(now + PERIOD), (true, 0));
    }
}
