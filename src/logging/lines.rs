//! The buffer between the loggers and stderr: logging adds lines without blocking, and a thread of its own writes them.
//!
//! Stderr may be a pipe that nobody reads. The buffer is bounded: lines that do not fit are dropped and counted, and their
//! number is reported once lines are read again.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Size of the buffer, bytes.
const MAX_BYTES: usize = 1 << 20;
/// How often the writing thread wakes up when there is nothing to write.
const TICK: Duration = Duration::from_secs(1);

/// Lines to be written.
#[derive(Debug, Default)]
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A line is being written.
    writing: bool,
    dropped: u64,
}

impl Lines {
    /// Starts the writing thread; `report` is called with the number of dropped lines, and when there is nothing to write.
    pub(super) fn start(
        mut out: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let lines = Arc::new(Self::default());
        let to_write = Arc::clone(&lines);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                let (line, dropped) = to_write.next();
                if let Some(line) = line {
                    // A failed write to stderr cannot be reported anywhere.
                    let _ = out.write_all(&line).and_then(|()| out.flush());
                    to_write.written();
                }
                report(dropped);
            }
        })?;
        Ok(lines)
    }

    /// The next line, or none for a while; and how many were dropped since the last one.
    fn next(&self) -> (Option<Vec<u8>>, u64) {
        let mut waiting = self.waiting.lock();
        if waiting.lines.is_empty() {
            self.changed.wait_for(&mut waiting, TICK);
        }
        let line = waiting.lines.pop_front();
        waiting.bytes -= line.as_ref().map_or(0, Vec::len);
        waiting.writing = line.is_some();
        (line, std::mem::take(&mut waiting.dropped))
    }

    fn written(&self) {
        self.waiting.lock().writing = false;
        self.changed.notify_all();
    }

    /// Waits until all lines are written, at most for this time.
    pub(super) fn flush(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        let mut waiting = self.waiting.lock();
        while waiting.writing || !waiting.lines.is_empty() {
            if self.changed.wait_until(&mut waiting, end).timed_out() {
                return;
            }
        }
    }
}

/// Adds lines to the buffer; each call writes one line.
pub(super) struct Line(pub(super) Arc<Lines>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.waiting.lock();
        // A line is added completely or not at all; a single line may be larger than the buffer.
        if waiting.bytes > 0 && waiting.bytes + line.len() > MAX_BYTES {
            waiting.dropped += 1;
        } else {
            waiting.bytes += line.len();
            waiting.lines.push_back(line.to_vec());
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Accepts one line for each permit.
    struct Reader {
        may: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if self.may.recv().is_ok() {
                let _ = self.taken.send(line.to_vec());
            }
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn logging_never_waits_for_a_reader_and_reports_what_it_dropped_once_lines_are_read() {
        let ((let_read, may), (taken, read), (tell, told)) = (mpsc::channel(), mpsc::channel(), mpsc::channel());
        let told_of = move |dropped| {
            if dropped > 0 {
                let _ = tell.send(dropped);
            }
        };
        let lines = Lines::start(Reader { may, taken }, told_of).unwrap();
        let begun = Instant::now();
        let line = vec![b'x'; 64 * 1024];
        for _ in 0..100 {
            Line(Arc::clone(&lines)).write_all(&line).unwrap();
        }
        lines.flush(Duration::from_millis(10));
        assert!(begun.elapsed() < Duration::from_secs(20) && lines.waiting.lock().bytes <= MAX_BYTES);
        for _ in 0..100 {
            let_read.send(()).unwrap();
        }
        lines.flush(Duration::from_secs(60));
        let kept = read.try_iter().count() as u64;
        assert!((16..=17).contains(&kept), "{kept}");
        let mut dropped = 0;
        while dropped < 100 - kept {
            dropped += told.recv().unwrap();
        }
        assert_eq!(dropped, 100 - kept);
    }
}
