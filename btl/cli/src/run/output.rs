//! The rank before each line of output.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Who holds a pipe open after all processes have ended, as a daemon does, is not waited for longer.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

/// The pipes of all processes. Without tags there are none: processes write where this one does.
pub(super) struct Outputs {
    tag: bool,
    /// Digits of the highest rank.
    width: usize,
    /// Each thread has one, and drops it at the end.
    running: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl Outputs {
    pub(super) fn new(tag: bool, count: u32) -> Self {
        let (running, ended) = channel();
        Self { tag, width: (count.max(1) - 1).to_string().len(), running: Some(running), ended }
    }

    /// Takes over the pipes of one process.
    pub(super) fn take(
        &self,
        rank: u32,
        stdout: Option<impl Read + Send + 'static>,
        stderr: Option<impl Read + Send + 'static>,
    ) {
        if !self.tag {
            return;
        }
        let tag = format!("[{rank:>width$}] ", width = self.width);
        if let Some(stdout) = stdout {
            self.copy(tag.clone(), stdout, std::io::stdout());
        }
        if let Some(stderr) = stderr {
            self.copy(tag, stderr, std::io::stderr());
        }
    }

    fn copy(&self, tag: String, from: impl Read + Send + 'static, to: impl Write + Send + 'static) {
        let running = self.running.clone();
        std::thread::spawn(move || {
            // When nobody reads our output any more the process is still read, so that it does not block.
            let _ = copy_lines(&tag, from, to);
            drop(running);
        });
    }

    /// Waits until all that was written is out.
    pub(super) fn finish(&mut self) {
        self.running = None;
        // Nothing is ever sent: it ends when the last thread has dropped its end.
        let _ = self.ended.recv_timeout(FINISH_LIMIT);
    }
}

fn copy_lines(tag: &str, from: impl Read, mut to: impl Write) -> std::io::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    let mut outcome = Ok(());
    loop {
        line.clear();
        line.extend_from_slice(tag.as_bytes());
        if from.read_until(b'\n', &mut line)? == 0 {
            return outcome;
        }
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        // One call for the whole line, so that lines of different processes do not mix.
        outcome = outcome.and(to.write_all(&line).and_then(|()| to.flush()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_tag() {
        let mut out = Vec::new();
        copy_lines("[1] ", &b"one\n\n\xffthree"[..], &mut out).unwrap();
        assert_eq!(out, b"[1] one\n[1] \n[1] \xffthree\n");
    }
}
